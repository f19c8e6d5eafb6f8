package scalekit_test

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/handover-dev/handover/events"
	"github.com/handover-dev/handover/internal/directory"
	"github.com/handover-dev/handover/signing"
)

// The official SDK, as it is, against the API on a real port.
func TestNodeSDK(t *testing.T) {
	t.Parallel()
	w := start(t)
	w.dir.now, w.handler.Now = time.Now, time.Now
	w.limits.most = 1000
	runNodeSDK(t, w.url, clientID, clientSecret, func(userID, organizationID string) (string, error) {
		s, err := w.dir.CreateSession(t.Context(), directory.Session{
			EnvironmentID: env, UserID: userID, OrganizationID: organizationID, Organizations: []string{organizationID},
		})
		return s.ID, err
	})
}

// runNodeSDK drives the official Node SDK through the whole removal flow, against
// the API at base. session begins a session of a user in an organization.
func runNodeSDK(t *testing.T, base, id, secret string, session func(userID, organizationID string) (string, error)) {
	t.Helper()
	node, err := exec.LookPath("node")
	if err != nil {
		t.Log("Node is not there: the official SDK was not run")
		return
	}
	npm, err := exec.LookPath("npm")
	if err != nil {
		t.Log("npm is not there: the official SDK was not run")
		return
	}
	dir := t.TempDir()
	if err := os.Symlink(nodeModules(t, npm), filepath.Join(dir, "node_modules")); err != nil {
		t.Fatal(err)
	}
	script, err := os.ReadFile(filepath.Join("testdata", "node", "flow.mjs"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "flow.mjs"), script, 0o644); err != nil {
		t.Fatal(err)
	}

	cmd := exec.CommandContext(t.Context(), node, "flow.mjs", base, id, secret, signedWebhook(t))
	cmd.Dir = dir
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
			began, err = session(wanted.Session.UserID, wanted.Session.OrganizationID)
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

// nodeModules installs the SDK once for each lock file, with npm as it is set up
// here.
func nodeModules(t *testing.T, npm string) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = t.TempDir()
	}
	cache = filepath.Join(cache, "handover-test")
	if err := os.MkdirAll(cache, 0o755); err != nil {
		t.Fatal(err)
	}
	installing, err := os.MkdirTemp(cache, "installing-*") //nolint:usetesting // it is renamed into the cache
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(installing) }()
	sum := sha256.New()
	for _, name := range []string{"package.json", "package-lock.json"} {
		b, err := os.ReadFile(filepath.Join("testdata", "node", name))
		if err != nil {
			t.Fatal(err)
		}
		_, _ = sum.Write(b)
		if err := os.WriteFile(filepath.Join(installing, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
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

// signedWebhook is a webhook of ours, with its headers as Node has them.
func signedWebhook(t *testing.T) string {
	t.Helper()
	body, ok := events.Fixture("user.organization_membership_deleted")
	if !ok {
		t.Fatal("there is no such fixture")
	}
	key := signing.NewKey()
	header := make(http.Header)
	if err := (signing.Signer{Keys: []signing.Key{key}}).SetHeaders(header, "msg_1", time.Now(), body); err != nil {
		t.Fatal(err)
	}
	headers := make(map[string]string)
	for name := range header {
		headers[strings.ToLower(name)] = header.Get(name)
	}
	b, err := json.Marshal(map[string]any{"secret": key.Secret(), "headers": headers, "payload": string(body)})
	if err != nil {
		t.Fatal(fmt.Errorf("marshal the webhook: %w", err))
	}
	return string(b)
}
