package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/handover-dev/handover/events"
	"github.com/handover-dev/handover/handlers"
	"github.com/handover-dev/handover/internal/api"
	"github.com/handover-dev/handover/internal/app"
	"github.com/handover-dev/handover/signing"
)

func (c *cli) demoCommand() *cobra.Command {
	var keep bool
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Watch one person leave, from the first webhook to the last document",
		Long: `Run the whole of Handover once, on this machine, with nothing else installed: the
real service on a temporary database, a small app that keeps documents, and an
identity provider that says that Dana left. The app fails once, succeeds at the
retry, hands her documents over, and is not impressed by a replay.

Takes a few seconds and leaves nothing behind. With --keep it stays up to be
played with, until Ctrl-C. Exit code 1 when the story does not go as it should.`,
		Example: `  handover demo
  handover demo --keep`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return (&demo{cli: c, s: c.style(c.out), keep: keep, self: calledAs(os.Executable())}).run(cmd.Context())
		},
	}
	cmd.Flags().BoolVar(&keep, "keep", false, "leave it running until Ctrl-C")
	return cmd
}

// A demo is one telling of the story. Each step checks that what it tells
// happened.
type demo struct {
	*cli
	s    style
	keep bool
	self string // the program, as it is called

	app      *demoApp
	service  app.Ready
	client   *api.Client
	secret   signing.Key // of the identity provider
	endpoint api.Endpoint
	event    events.Event
	delivery api.Delivery
}

func (d *demo) run(ctx context.Context) (err error) {
	start := d.now()
	dir, err := os.MkdirTemp("", "handover-demo-")
	if err != nil {
		return fmt.Errorf("make a directory: %w", err)
	}
	defer os.RemoveAll(dir)
	if d.app, err = newDemoApp(ctx, dir); err != nil {
		return err
	}
	defer d.app.close()
	ctx, stop := context.WithCancelCause(ctx)
	stopped, err := d.startService(ctx, stop, dir)
	defer func() {
		stop(nil)
		<-stopped
	}()
	if err != nil {
		return err
	}
	for _, step := range []func(context.Context) error{d.setUp, d.before, d.leave, d.deliver, d.after, d.replay} {
		if err := step(ctx); err != nil {
			if cause := context.Cause(ctx); cause != nil {
				return cause
			}
			return err
		}
	}
	d.say("\n%s in %s. All of it was real: SQLite, HTTP, signatures, retries.", d.s.good("Done"), took(d.now().Sub(start)))
	if d.keep {
		d.stay(ctx)
		return nil
	}
	d.next()
	return nil
}

// startService runs the service, as handover serve does, and waits until it
// serves. stopped is closed when it ended.
func (d *demo) startService(ctx context.Context, fail context.CancelCauseFunc, dir string) (stopped chan struct{}, err error) {
	stopped = make(chan struct{})
	ready := make(chan app.Ready, 1)
	go func() {
		defer close(stopped)
		err := app.Run(ctx, app.Config{
			Addr: "127.0.0.1:0", DataDir: dir, AllowNetworks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
			ShutdownGrace: 2 * time.Second, Version: thisBuild().Version, OnReady: func(r app.Ready) { ready <- r },
		})
		if err == nil {
			err = context.Canceled
		}
		fail(fmt.Errorf("run service: %w", err))
	}()
	select {
	case d.service = <-ready:
		d.client = &api.Client{BaseURL: d.service.URL, Key: d.service.NewAPIKey}
		return stopped, nil
	case <-ctx.Done():
		return stopped, context.Cause(ctx)
	}
}

func (d *demo) setUp(ctx context.Context) error {
	var err error
	d.secret = signing.NewKey()
	if _, err = d.client.CreateSource(ctx, api.NewSource{Name: "scalekit", EnvironmentID: demoEnvironment, Secret: d.secret.Secret()}); err != nil {
		return fmt.Errorf("create source: %w", err)
	}
	d.endpoint, err = d.client.CreateEndpoint(ctx, api.NewEndpoint{
		Name: "documents", URL: d.app.url(), EventTypes: []string{events.MembershipRemoved.Name},
		RetrySchedule: []float64{0, 1, 5},
	})
	if err != nil {
		return fmt.Errorf("create endpoint: %w", err)
	}
	key, err := signing.ParseKey(d.endpoint.Secret)
	if err != nil {
		return fmt.Errorf("read secret of endpoint: %w", err)
	}
	d.app.serve(key)

	d.say("%s", d.s.strong("Dana leaves Northwind. Who gets her documents?"))
	d.say("\n  handover   %s   the real service, on SQLite in a temporary directory", d.service.URL)
	d.say("  documents  %s   a small app that subscribed to removals, as %s", strings.TrimSuffix(d.app.url(), "/handover"), d.endpoint.ID)
	return nil
}

func (d *demo) before(ctx context.Context) error {
	d.title(1, "Before: the documents of Northwind")
	return d.expectOwners(ctx, map[string]int{dana: 3, ines: 1})
}

// leave does what the identity provider does: it signs the news and sends it.
func (d *demo) leave(ctx context.Context) error {
	body, err := d.removal()
	if err != nil {
		return err
	}
	if d.event, err = events.Parse(body); err != nil {
		return fmt.Errorf("build event: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, d.service.URL+"/webhooks/scalekit", bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("build webhook: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	if err := (signing.Signer{Keys: []signing.Key{d.secret}}).SetHeaders(req.Header, "msg_"+strings.TrimPrefix(d.event.ID, "evt_"), d.now(), body); err != nil {
		return fmt.Errorf("sign webhook: %w", err)
	}
	start := d.now()
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("send webhook: %w", err)
	}
	defer res.Body.Close()
	took := took(d.now().Sub(start))
	if answer, err := io.ReadAll(io.LimitReader(res.Body, 1<<16)); err != nil || res.StatusCode != http.StatusCreated {
		return fmt.Errorf("the webhook was answered with %d %s, not 201", res.StatusCode, clean(string(answer)))
	}
	d.title(2, "The identity provider says: Dana Rivers was removed")
	d.fact(fmt.Sprintf("POST /webhooks/scalekit   %s   in %s", d.s.good("201"), took))
	d.fact("signature verified, event on disk before the answer: " + d.event.ID)
	d.fact("it names a successor: Inès Moreau, " + ines)
	return nil
}

// removal is the event as Scalekit sends it, of now and with a successor.
func (d *demo) removal() ([]byte, error) {
	body, ok := events.Fixture(events.MembershipRemoved.Name)
	if !ok {
		return nil, errors.New("there is no example of " + events.MembershipRemoved.Name)
	}
	t := triggerCommand{cli: d.cli, organization: northwind, user: dana, set: []string{
		"environment_id=" + demoEnvironment, "data.successor.user_id=" + ines, "data.successor.email=ines.moreau@example.com",
	}}
	return t.fill(body)
}

func (d *demo) deliver(ctx context.Context) error {
	err := waitFor(ctx, patience, "a delivery of "+d.event.ID, func(ctx context.Context) (found bool, err error) {
		for d.delivery, err = range d.client.Deliveries(ctx, api.DeliveryFilter{EventID: d.event.ID}) {
			return err == nil, err
		}
		return false, nil
	})
	if err != nil {
		return err
	}
	if d.delivery, err = d.settled(ctx, 2); err != nil {
		return err
	}
	attempts := d.delivery.Attempts
	if len(attempts) != 2 || attempts[0].Status != http.StatusInternalServerError || attempts[1].Status != http.StatusOK {
		return fmt.Errorf("the delivery had the answers %v, not 500 and 200", statuses(attempts))
	}
	if d.delivery.State != "succeeded" || d.delivery.Outcome != "transferred" {
		return fmt.Errorf("the delivery is %s with outcome %q, not succeeded and transferred", d.delivery.State, d.delivery.Outcome)
	}
	receipt, err := handlers.ParseReceipt(d.delivery.Receipt)
	if err != nil || len(receipt.Resources) != 1 {
		return fmt.Errorf("the app gave no receipt: %s", d.delivery.Receipt)
	}
	d.title(3, "Handover tells the app, until it has handed over")
	d.attempts(attempts)
	wait := attempts[1].StartedAt.Sub(attempts[0].StartedAt)
	d.fact(fmt.Sprintf("retried after %s: this endpoint asked for it; the default is 10 attempts over 75 h", took(wait)))
	r := receipt.Resources[0]
	d.fact(fmt.Sprintf("the app's receipt: %s, %d of %s transferred to %s", r.Type, r.Transferred, plural(r.Found, "found", "found"), r.To))
	d.fact("webhook-id " + d.delivery.ID + ", the same in every attempt")
	return nil
}

func (d *demo) after(ctx context.Context) error {
	d.title(4, "After: nothing of Dana's is left behind")
	return d.expectOwners(ctx, map[string]int{ines: 4})
}

// replay sends the same delivery again, as an operator in doubt would.
func (d *demo) replay(ctx context.Context) error {
	calls := d.app.calls.Load()
	started, err := d.client.CreateReplay(ctx, api.NewReplay{Selection: api.Selection{DeliveryIDs: []string{d.delivery.ID}}})
	if err != nil {
		return fmt.Errorf("create replay: %w", err)
	}
	err = waitFor(ctx, patience, "the end of "+started.ID, func(ctx context.Context) (done bool, err error) {
		started, err = d.client.Replay(ctx, started.ID)
		return started.State == "done", err
	})
	if err != nil {
		return err
	}
	again, err := d.settled(ctx, 3)
	if err != nil {
		return err
	}
	if len(again.Attempts) != 3 || again.Attempts[2].Status != http.StatusOK || again.State != "succeeded" {
		return fmt.Errorf("the replayed delivery is %s with the answers %v, not succeeded with a third one of 200", again.State, statuses(again.Attempts))
	}
	if !bytes.Equal(again.Receipt, d.delivery.Receipt) {
		return fmt.Errorf("the receipt changed from %s to %s", d.delivery.Receipt, again.Receipt)
	}
	if n := d.app.calls.Load(); n != calls {
		return fmt.Errorf("the app handed over %d times more", n-calls)
	}
	d.title(5, "An operator replays it, and nothing happens twice")
	d.attempts(again.Attempts[2:])
	d.fact(fmt.Sprintf("%s sent it again; the app knew the webhook-id and gave the same receipt", started.ID))
	return d.expectOwners(ctx, map[string]int{ines: 4})
}

// patience is how long the demo waits for anything.
const patience = 15 * time.Second

// settled waits until the delivery is over, after so many attempts.
func (d *demo) settled(ctx context.Context, attempts int) (now api.Delivery, err error) {
	err = waitFor(ctx, patience, fmt.Sprintf("attempt %d of %s", attempts, d.delivery.ID), func(ctx context.Context) (done bool, err error) {
		now, err = d.client.Delivery(ctx, d.delivery.ID)
		return now.AttemptCount >= attempts && !open(now.State), err
	})
	return now, err
}

// expectOwners shows the documents and checks who owns how many.
func (d *demo) expectOwners(ctx context.Context, want map[string]int) error {
	documents, err := d.app.documents(ctx)
	if err != nil {
		return err
	}
	names := map[string]string{dana: "Dana Rivers", ines: "Inès Moreau"}
	t := table{head: []string{"  DOCUMENT", "OWNER"}}
	got := map[string]int{}
	for _, doc := range documents {
		got[doc.owner]++
		owner := names[doc.owner]
		if doc.owner == dana {
			owner = d.s.warn(owner)
		}
		t.add("  "+doc.title, owner)
	}
	t.print(d.out, d.s)
	for owner, n := range want {
		if got[owner] != n || len(got) != len(want) {
			return fmt.Errorf("the documents are not owned as they should be: %v, not %v", got, want)
		}
	}
	return nil
}

func (d *demo) attempts(all []api.Attempt) {
	t := table{}
	for _, a := range all {
		status, note := d.s.good(fmt.Sprint(a.Status)), ""
		if a.Status != http.StatusOK {
			status, note = d.s.bad(fmt.Sprint(a.Status)), errUpgrading.Error()
		}
		t.add(fmt.Sprintf("  attempt %d", a.Number), status, took(millis(a.DurationMS)), note)
	}
	t.print(d.out, d.s)
}

func statuses(all []api.Attempt) []int {
	var list []int
	for _, a := range all {
		list = append(list, a.Status)
	}
	return list
}

func (d *demo) say(format string, args ...any) { fmt.Fprintf(d.out, format+"\n", args...) }
func (d *demo) fact(text string)               { d.say("  %s", text) }

func (d *demo) title(n int, text string) {
	d.say("\n%s", d.s.strong(fmt.Sprintf("%d  %s", n, text)))
}

func (d *demo) next() {
	d.say("\nTry next:")
	for _, line := range [][2]string{
		{"demo --keep", "the same, and it stays up"},
		{"serve --allow-network 127.0.0.0/8", "the service, for apps on this machine"},
		{"listen", "see events arrive, in another terminal"},
		{"trigger " + events.MembershipRemoved.Name, ""},
		{"-h", "everything else"},
	} {
		d.say("%s", strings.TrimRight(fmt.Sprintf("  %s %-36s %s", d.self, line[0], line[1]), " "))
	}
}

// builtByRun matches where go run puts a program: into a temporary directory,
// and from the second time on into the build cache.
var builtByRun = regexp.MustCompile(`[/\\](go-build\d+[/\\]b\d+[/\\]exe|[0-9a-f]{64}-d)[/\\][^/\\]+$`)

// calledAs is what to type for this program.
func calledAs(path string, err error) string {
	if err == nil && builtByRun.MatchString(path) {
		return "go run ./cmd/handover"
	}
	return "handover"
}

// stay leaves everything up until the user has seen enough.
func (d *demo) stay(ctx context.Context) {
	d.say(`
It stays up until Ctrl-C. In another terminal:

  export HANDOVER_URL=%s
  export HANDOVER_API_KEY=%s
  %[3]s deliveries get %[4]s
  %[3]s trigger %[5]s --set data.successor.user_id=%[6]s
  %[3]s listen`, d.service.URL, d.service.NewAPIKey, d.self, d.delivery.ID, events.MembershipRemoved.Name, ines)
	<-ctx.Done()
}
