// Package scalekittest drives the official Node SDK, as it is, against the API
// and against webhooks of ours.
package scalekittest

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

//go:embed testdata
var files embed.FS

// A Target is the API on a real port.
type Target struct {
	URL              string
	ClientID, Secret string // of an API client
	// Session begins a session of a user in an organization and returns its id.
	Session func(userID, organizationID string) (string, error)
}

// Run drives the SDK through the whole removal flow.
func Run(t *testing.T, to Target) {
	t.Helper()
	cmd := script(t, "flow.mjs", to.URL, to.ClientID, to.Secret)
	if cmd == nil {
		return
	}
	var complaints strings.Builder
	cmd.Stderr = &complaints
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var said []string
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		said = append(said, lines.Text())
		if !strings.HasPrefix(lines.Text(), "{") {
			continue
		}
		var wanted struct {
			Session struct {
				UserID         string `json:"user_id"`
				OrganizationID string `json:"organization_id"`
			} `json:"session"`
		}
		err := json.Unmarshal(lines.Bytes(), &wanted)
		var began string
		if err == nil {
			began, err = to.Session(wanted.Session.UserID, wanted.Session.OrganizationID)
		}
		if err == nil {
			_, err = io.WriteString(in, began+"\n")
		}
		if err != nil {
			t.Errorf("begin a session: %v", err)
			_ = in.Close()
		}
	}
	if err := cmd.Wait(); err != nil || !slices.Contains(said, "done") {
		t.Errorf("the SDK's flow: %v\n%s\n%s", err, strings.Join(said, "\n"), &complaints)
	}
}

// A Webhook is one that an app received.
type Webhook struct {
	Secret string // of the endpoint
	Header http.Header
	Body   []byte
}

// Verify has the SDK verify webhooks. Their bodies have to stay the same when an
// app parses them and writes them again.
func Verify(t *testing.T, webhooks ...Webhook) {
	t.Helper()
	type webhook struct {
		Secret  string            `json:"secret"`
		Headers map[string]string `json:"headers"`
		Payload string            `json:"payload"`
	}
	all := make([]webhook, len(webhooks))
	for i, w := range webhooks {
		all[i] = webhook{w.Secret, make(map[string]string), string(w.Body)}
		for name := range w.Header {
			all[i].Headers[strings.ToLower(name)] = w.Header.Get(name) // as Node has them
		}
	}
	given, err := json.Marshal(all) //nolint:gosec // the secrets are of a test
	if err != nil {
		t.Fatal(err)
	}
	cmd := script(t, "verify.mjs")
	if cmd == nil {
		return
	}
	cmd.Stdin = bytes.NewReader(given)
	if out, err := cmd.CombinedOutput(); err != nil || !bytes.HasSuffix(out, []byte("done\n")) {
		t.Errorf("the SDK verifies webhooks: %v\n%s", err, out)
	}
}

// script makes ready to run a script with the SDK. Without Node there is nothing
// to run: nil.
func script(t *testing.T, name string, args ...string) *exec.Cmd {
	t.Helper()
	node, err := exec.LookPath("node")
	if err != nil {
		t.Log("Node is not there: the official SDK was not run")
		return nil
	}
	npm, err := exec.LookPath("npm")
	if err != nil {
		t.Log("npm is not there: the official SDK was not run")
		return nil
	}
	dir := t.TempDir()
	if err := os.Symlink(nodeModules(t, npm), filepath.Join(dir, "node_modules")); err != nil {
		t.Fatal(err)
	}
	write(t, dir, name)
	cmd := exec.CommandContext(t.Context(), node, append([]string{name}, args...)...)
	cmd.Dir = dir
	return cmd
}

// write puts a file into a directory, and returns what it holds.
func write(t *testing.T, dir, name string) []byte {
	t.Helper()
	content, err := files.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
		t.Fatal(err)
	}
	return content
}

// nodeModules installs the SDK once for each lock file, with npm as it is set up
// here.
func nodeModules(t *testing.T, npm string) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = t.TempDir()
	}
	cache = filepath.Join(cache, "handover-test")
	if err := os.MkdirAll(cache, 0o750); err != nil {
		t.Fatal(err)
	}
	installing, err := os.MkdirTemp(cache, "installing-*") //nolint:usetesting // it is renamed into the cache
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(installing) }()
	sum := sha256.New()
	for _, name := range []string{"package.json", "package-lock.json"} {
		_, _ = sum.Write(write(t, installing, name))
	}
	installed := filepath.Join(cache, "scalekit-node-"+hex.EncodeToString(sum.Sum(nil)[:8]))
	modules := filepath.Join(installed, "node_modules")
	if _, err := os.Stat(modules); err == nil {
		return modules
	}
	cmd := exec.CommandContext(t.Context(), npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund")
	cmd.Dir = installing
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("npm ci: %v\n%s", err, out)
	}
	if err := os.Rename(installing, installed); err != nil {
		if _, there := os.Stat(modules); there != nil { // nor did another process install it meanwhile
			t.Fatal(err)
		}
	}
	return modules
}
