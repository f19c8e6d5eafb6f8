package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// The README's ways in are run as they stand, from top to bottom, against a fresh
// service.
func TestReadmeWaysIn(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile(filepath.Join("..", "..", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(readme), "\n## Ways in\n")
	section, _, _ = strings.Cut(section, "\n## ")
	code := make(map[string]string)
	for _, block := range regexp.MustCompile("(?ms)^```(\\w+)\n(.*?)^```$").FindAllStringSubmatch(section, -1) {
		code[block[1]] += block[2]
	}
	// The service of a test has another port.
	code["sh"] = strings.ReplaceAll(code["sh"], "http://127.0.0.1:8080", "$HANDOVER_URL")
	program, err := findIn(os.Getenv("PATH"), "handover")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir:                 filepath.Join("testdata", "readme"),
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			env.Values["server"] = &server{}
			if err := os.Symlink(program, filepath.Join(env.WorkDir, "handover")); err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(env.WorkDir, "ways.sh"), []byte(code["sh"]), 0o600); err != nil {
				return err
			}
			return setUpNode(t, env.WorkDir, code["javascript"])
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"serve": serve, "quit": quit, "setenv": setenv},
	})
}

// setUpNode puts a program that uses the official SDK into a directory, with the
// SDK, when npm is there.
func setUpNode(t *testing.T, dir, program string) error {
	t.Helper()
	npm, err := exec.LookPath("npm")
	if err != nil {
		return nil //nolint:nilerr // the script does without it too
	}
	if err := os.WriteFile(filepath.Join(dir, "leave.mjs"), []byte(program), 0o600); err != nil {
		return err
	}
	for _, name := range []string{"package.json", "package-lock.json"} {
		b, err := os.ReadFile(filepath.Join("..", "..", "internal", "ingest", "scalekit", "scalekittest", "testdata", name))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			return err
		}
	}
	cmd := exec.CommandContext(t.Context(), npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Logf("%s", out)
		return err
	}
	return nil
}
