package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/textproto"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/handover-dev/handover/events"
	"github.com/handover-dev/handover/signing"
)

// receiverTolerance is how old a request may be for most receivers.
const receiverTolerance = 5 * time.Minute

type verifyCommand struct {
	*cli
	secret, headers          string
	id, timestamp, signature string
	tolerance                time.Duration
}

type verdict struct {
	Valid     bool   `json:"valid"`
	Reason    string `json:"reason,omitempty"`
	Hint      string `json:"hint,omitempty"`
	ID        string `json:"webhook_id,omitempty"`
	Timestamp string `json:"webhook_timestamp,omitempty"`
	BodyBytes int    `json:"body_bytes"`
}

func (c *cli) verifyCommand() *cobra.Command {
	v := verifyCommand{cli: c}
	cmd := &cobra.Command{
		Use:   "verify [BODY]",
		Short: "Check a captured request against a secret",
		Long: `Check whether a captured request was signed with a secret, and say exactly why
not (Standard Webhooks: webhook-id, webhook-timestamp, webhook-signature).

BODY is the file with the request's body, byte for byte; without it, or with -,
it is read from stdin. The headers are given by --headers, a file of
"Name: value" lines (others are ignored), or one by one.

A captured request is old, so its age is only told. With --tolerance it counts.
Exit code 1 when the request is not valid.`,
		Example: `  handover verify body.json --headers headers.txt --secret whsec_…
  curl -s https://bin.example.com/last/body | handover verify --headers headers.txt
  handover verify body.json --id msg_1 --timestamp 1781256600 --signature v1,… --secret - < secret.txt`,
		Args: optional("BODY"),
		RunE: func(_ *cobra.Command, args []string) error { return v.run(append(args, "-")[0]) },
	}
	f := cmd.Flags()
	f.StringVar(&v.secret, "secret", "", "whsec_… or whpk_…; - reads it from stdin (the environment keeps it out of the shell's history)")
	f.StringVar(&v.headers, "headers", "", "file with the request's headers")
	f.StringVar(&v.id, "id", "", "value of webhook-id")
	f.StringVar(&v.timestamp, "timestamp", "", "value of webhook-timestamp")
	f.StringVar(&v.signature, "signature", "", "value of webhook-signature")
	f.DurationVar(&v.tolerance, "tolerance", 0, "refuse when the timestamp is further away than this (0: do not look)")
	c.jsonFlag(cmd)
	cmd.MarkFlagsMutuallyExclusive("headers", "id")
	return cmd
}

func (v *verifyCommand) run(bodyFile string) error {
	key, err := v.key(bodyFile)
	if err != nil {
		return err
	}
	header, err := v.header()
	if err != nil {
		return err
	}
	body, err := v.read(bodyFile, events.MaxSize)
	if err != nil {
		return fmt.Errorf("read body: %w", err)
	}
	verifier := signing.Verifier{Keys: []signing.Key{key}, Tolerance: v.tolerance, Now: v.now}
	if v.tolerance == 0 {
		verifier.Tolerance = -1
	}
	result := verdict{ID: header.Get(signing.HeaderID), Timestamp: header.Get(signing.HeaderTimestamp), BodyBytes: len(body)}
	if err := verifier.Verify(header, body); err != nil {
		result.Reason, result.Hint = notVerified(err), v.why(verifier, header, body, err)
	} else {
		result.Valid, result.Hint = true, v.age(header)
	}
	if err := v.print(result); err != nil {
		return err
	}
	if !result.Valid {
		return errQuiet
	}
	return nil
}

func (v *verifyCommand) print(r verdict) error {
	if v.json {
		return v.printJSON(r)
	}
	s := v.style(v.out)
	if r.Valid {
		fmt.Fprintf(v.out, "%s: signed with this secret\n", s.good("valid"))
	} else {
		fmt.Fprintf(v.out, "%s: %s\n", s.bad("invalid"), clean(r.Reason))
	}
	if r.Hint != "" {
		fmt.Fprintf(v.out, "%s: %s\n", s.strong("hint"), r.Hint)
	}
	t := table{}
	t.add("  webhook-id", orDash(clean(r.ID)))
	t.add("  webhook-timestamp", orDash(clean(r.Timestamp)))
	if at, ok := unixSeconds(r.Timestamp); ok {
		t.rows[1][1] += ", " + v.when(at)
	}
	t.add("  body", plural(int64(r.BodyBytes), "byte", "bytes"))
	t.print(v.out, s)
	return nil
}

// why looks for the usual reasons behind a refusal.
func (v *verifyCommand) why(verifier signing.Verifier, header http.Header, body []byte, err error) string {
	switch {
	case errors.Is(err, signing.ErrMissingHeader):
		return "give --headers, or all of --id, --timestamp and --signature"
	case errors.Is(err, signing.ErrTooOld), errors.Is(err, signing.ErrTooNew):
		verifier.Tolerance = -1
		if verifier.Verify(header, body) == nil {
			return "the signature itself is good: sender and receiver disagree about the time, or this is a replay"
		}
		return "the signature does not match either"
	case !errors.Is(err, signing.ErrNoMatch):
		return ""
	}
	if trimmed := bytes.TrimRight(body, "\r\n"); len(trimmed) < len(body) && verifier.Verify(header, trimmed) == nil {
		return "it matches without the line break at the end of the body, which an editor or a shell added"
	}
	if verifier.Verify(header, append(bytes.Clone(body), '\n')) == nil {
		return "it matches with a line break at the end of the body, which the capture dropped"
	}
	var compact bytes.Buffer
	if json.Compact(&compact, body) == nil && verifier.Verify(header, compact.Bytes()) == nil {
		return "it matches the compact form of this JSON: the body was formatted again; keep the raw bytes"
	}
	return "another secret, or the body or a header is not what was signed; keep the raw bytes of the body"
}

func (v *verifyCommand) age(header http.Header) string {
	at, ok := unixSeconds(header.Get(signing.HeaderTimestamp))
	if off := v.now().Sub(at).Abs(); ok && v.tolerance == 0 && off > receiverTolerance {
		return fmt.Sprintf("receivers refuse it by now, %s from its time; check with --tolerance 5m", round(off))
	}
	return ""
}

// notVerified is the reason alone.
func notVerified(err error) string {
	return strings.TrimPrefix(err.Error(), signing.ErrVerify.Error()+": ")
}

func unixSeconds(text string) (time.Time, bool) {
	n, err := strconv.ParseInt(text, 10, 64)
	return time.Unix(n, 0), err == nil
}

func (v *verifyCommand) key(bodyFile string) (signing.Key, error) {
	switch {
	case v.secret == "":
		return signing.Key{}, usagef("missing --secret")
	case v.secret == "-" && bodyFile == "-":
		return signing.Key{}, usagef("secret and body cannot both come from stdin; give the body as a file")
	}
	text, err := v.readSecret(v.secret)
	if err != nil {
		return signing.Key{}, err
	}
	key, err := signing.ParseKey(text)
	if err != nil {
		return signing.Key{}, hinted{fmt.Errorf("read secret: %w", err), "a secret starts with whsec_, a public key with whpk_"}
	}
	return key, nil
}

// header collects the three headers; a capture may hold others, with which a
// verifier must not be confused.
func (v *verifyCommand) header() (http.Header, error) {
	header := http.Header{}
	if v.headers == "" {
		for name, value := range map[string]string{
			signing.HeaderID: v.id, signing.HeaderTimestamp: v.timestamp, signing.HeaderSignature: v.signature,
		} {
			if value != "" {
				header.Set(name, value)
			}
		}
		return header, nil
	}
	text, err := v.read(v.headers, 256<<10)
	if err != nil {
		return nil, fmt.Errorf("read headers: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		// curl -v marks what it sent and got.
		name, value, ok := strings.Cut(strings.TrimLeft(line, "<> "), ":")
		switch name = textproto.CanonicalMIMEHeaderKey(strings.TrimSpace(name)); name {
		case signing.HeaderID, signing.HeaderTimestamp, signing.HeaderSignature:
			if ok {
				header.Add(name, strings.TrimSpace(value))
			}
		}
	}
	return header, nil
}

// read reads a file, or stdin for "-", and refuses more than limit bytes.
func (c *cli) read(name string, limit int64) ([]byte, error) {
	r := c.in
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		r = f
	}
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("more than %d bytes", limit)
	}
	return data, nil
}
