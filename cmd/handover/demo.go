package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"regexp"
	"slices"
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
		Short: "Watch one person leave, from the first request to the last document",
		Long: `Run the whole of Handover once, on this machine, with nothing else installed: the
real service on a temporary database, a small app that keeps documents, and
everybody who can say that Dana left: a program by the API that Scalekit's SDKs
speak, the identity provider by a signed webhook, her company's directory by SCIM.
The app fails once, succeeds at the retry, hands her documents over, and is not
impressed by a replay. When she comes back before it was told, it is not told.

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

	token                 string // for the API that the SDKs speak
	northwind, dana, ines string // ids
	session               string // Dana's first
	directory             api.SCIMDirectory
	danaSCIM              string // Dana's id in the directory

	step     int
	told     string // the last removal that was recorded
	delivery api.Delivery
}

const inesEmail, danaEmail = "ines.moreau@example.com", "dana.rivers@example.com"

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
	for _, step := range []func(context.Context) error{
		d.setUp, d.before, d.leave, d.deliver, d.after, d.replay, d.tellAgain, d.leaveBySCIM, d.comeBack,
	} {
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
	if err := d.people(ctx); err != nil {
		return err
	}
	var err error
	d.secret = signing.NewKey()
	if _, err = d.client.CreateSource(ctx, api.NewSource{Name: "scalekit", EnvironmentID: app.DefaultEnvironmentID, Secret: d.secret.Secret()}); err != nil {
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

// people makes Northwind and its members. Dana is a member of Contoso too, so
// that her account stays when she leaves.
func (d *demo) people(ctx context.Context) error {
	client, err := d.client.InEnvironment("").CreateClient(ctx, "demo")
	if err != nil {
		return fmt.Errorf("create client: %w", err)
	}
	if err := d.logIn(ctx, client); err != nil {
		return err
	}
	contoso := ""
	for _, made := range []struct {
		id         *string
		path, body string
	}{
		{&d.northwind, "/organizations", `{"display_name":"Northwind"}`},
		{&contoso, "/organizations", `{"display_name":"Contoso"}`},
		{&d.ines, "/organizations/{northwind}/users", `{"email":"` + inesEmail + `","user_profile":{"first_name":"Inès","last_name":"Moreau"}}`},
		{&d.dana, "/organizations/{contoso}/users", `{"email":"` + danaEmail + `","user_profile":{"first_name":"Dana","last_name":"Rivers"}}`},
	} {
		path := strings.NewReplacer("{northwind}", d.northwind, "{contoso}", contoso).Replace(made.path)
		if *made.id, err = d.create(ctx, path, made.body); err != nil {
			return err
		}
	}
	if _, err := d.add(ctx); err != nil {
		return err
	}
	session, err := d.client.InEnvironment("").CreateSession(ctx, api.NewSession{UserID: d.dana, OrganizationID: d.northwind})
	if err != nil {
		return fmt.Errorf("create session: %w", err)
	}
	d.session = session.ID
	return errors.Join(
		d.app.write(ctx, d.northwind, d.dana, "Budget 2027", "Hiring plan", "Customer contacts"),
		d.app.write(ctx, d.northwind, d.ines, "Product roadmap"))
}

func (d *demo) before(ctx context.Context) error {
	d.title("Before: the documents of Northwind")
	return d.expectOwners(ctx, true, map[string]int{d.dana: 3, d.ines: 1})
}

// leave does what an app's admin page does, with any of Scalekit's SDKs.
func (d *demo) leave(ctx context.Context) error {
	c, err := d.remove(ctx)
	if err != nil {
		return err
	}
	m, err := d.removal(ctx, events.Membership{Reason: "api", Successor: &events.Successor{UserID: d.ines, Source: "request"}, RevokedSessions: []string{d.session}})
	if err != nil {
		return err
	}
	d.title("Dana Rivers is removed, by the API that Scalekit's SDKs speak")
	d.calls(c)
	d.fact("one transaction: her membership and " + m.RevokedSessions[0] + " end, " + d.told + " is in the outbox")
	d.fact("it names a successor: Inès Moreau, " + m.Successor.UserID)
	return nil
}

// removal finds the removal of Dana that was recorded last, and checks what it
// says.
func (d *demo) removal(ctx context.Context, want events.Membership) (events.Membership, error) {
	var m events.Membership
	before := d.told
	for ev, err := range d.client.Events(ctx, api.EventFilter{Type: events.MembershipRemoved.Name, UserID: d.dana}) {
		if err != nil {
			return m, fmt.Errorf("list events: %w", err)
		}
		d.told = ev.ID
		break
	}
	if d.told == before {
		return m, errors.New("no removal was recorded")
	}
	ev, err := d.client.Event(ctx, d.told, "")
	if err != nil {
		return m, fmt.Errorf("get the event of the removal: %w", err)
	}
	body, err := events.Parse(ev.Body)
	if err == nil {
		m, err = events.MembershipRemoved.Decode(body)
	}
	if err != nil {
		return m, fmt.Errorf("read %s: %w", d.told, err)
	}
	if m.Successor == nil || m.Successor.UserID != want.Successor.UserID || m.Successor.Source != want.Successor.Source ||
		m.Reason != want.Reason || !slices.Equal(m.RevokedSessions, want.RevokedSessions) {
		return m, fmt.Errorf("the event says %s", m.Raw)
	}
	return m, nil
}

func (d *demo) deliver(ctx context.Context) error {
	r, err := d.handedOver(ctx, http.StatusInternalServerError, http.StatusOK)
	if err != nil {
		return err
	}
	attempts := d.delivery.Attempts
	d.title("Handover tells the app, until it has handed over")
	d.attempts(attempts)
	wait := attempts[1].StartedAt.Sub(attempts[0].StartedAt)
	d.fact(fmt.Sprintf("retried after %s: this endpoint asked for it; the default is 10 attempts over 75 h", took(wait)))
	d.receipt(r)
	d.fact("webhook-id " + d.delivery.ID + ", the same in every attempt")
	return nil
}

// handedOver waits until the app has handed over after the last removal, and
// checks what it answered on the way.
func (d *demo) handedOver(ctx context.Context, answers ...int) (r handlers.Resource, err error) {
	if err := d.deliveryOf(ctx, d.told); err != nil {
		return r, err
	}
	if d.delivery, err = d.settled(ctx, len(answers)); err != nil {
		return r, err
	}
	if got := statuses(d.delivery.Attempts); !slices.Equal(got, answers) {
		return r, fmt.Errorf("the delivery had the answers %v, not %v", got, answers)
	}
	if d.delivery.State != "succeeded" || d.delivery.Outcome != "transferred" {
		return r, fmt.Errorf("the delivery is %s with outcome %q, not succeeded and transferred", d.delivery.State, d.delivery.Outcome)
	}
	receipt, err := handlers.ParseReceipt(d.delivery.Receipt)
	if err != nil || len(receipt.Resources) != 1 {
		return r, fmt.Errorf("the app gave no receipt: %s", d.delivery.Receipt)
	}
	return receipt.Resources[0], nil
}

// deliveryOf waits for the delivery of an event.
func (d *demo) deliveryOf(ctx context.Context, eventID string) error {
	return waitFor(ctx, patience, "a delivery of "+eventID, func(ctx context.Context) (found bool, err error) {
		for d.delivery, err = range d.client.Deliveries(ctx, api.DeliveryFilter{EventID: eventID}) {
			return err == nil, err
		}
		return false, nil
	})
}

func (d *demo) after(ctx context.Context) error {
	d.title("After: nothing of Dana's is left behind")
	return d.expectOwners(ctx, true, map[string]int{d.ines: 4})
}

// replay sends the same delivery again, as an operator in doubt would.
func (d *demo) replay(ctx context.Context) error {
	calls := d.app.calls.Load()
	done, err := d.replayed(ctx)
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
	d.title("An operator replays it, and nothing happens twice")
	d.attempts(again.Attempts[2:])
	d.fact(done.ID + " sent it again; the app knew the webhook-id and gave the same receipt")
	return d.expectOwners(ctx, false, map[string]int{d.ines: 4})
}

// replayed replays the last delivery.
func (d *demo) replayed(ctx context.Context) (r api.Replay, err error) {
	if r, err = d.client.CreateReplay(ctx, api.NewReplay{Selection: api.Selection{DeliveryIDs: []string{d.delivery.ID}}}); err != nil {
		return r, fmt.Errorf("create replay: %w", err)
	}
	err = waitFor(ctx, patience, "the end of "+r.ID, func(ctx context.Context) (done bool, err error) {
		r, err = d.client.Replay(ctx, r.ID)
		return r.State == "done", err
	})
	return r, err
}

// tellAgain does what the identity provider does: it signs the news and sends
// it. They are not new.
func (d *demo) tellAgain(ctx context.Context) error {
	body, err := events.New(events.MembershipRemoved, events.Membership{
		Organization: events.Organization{ID: d.northwind}, User: events.User{ID: d.dana, Email: danaEmail},
	}, events.Defaults{EnvironmentID: app.DefaultEnvironmentID, Now: d.now}, d.northwind)
	if err != nil {
		return fmt.Errorf("build event: %w", err)
	}
	header := http.Header{"Content-Type": {"application/json"}}
	if err := (signing.Signer{Keys: []signing.Key{d.secret}}).SetHeaders(header, "msg_"+strings.TrimPrefix(body.ID, "evt_"), d.now(), body.Body()); err != nil {
		return fmt.Errorf("sign webhook: %w", err)
	}
	c, err := d.send(ctx, http.StatusOK, http.MethodPost, "/webhooks/scalekit", header, body.Body())
	if err != nil {
		return err
	}
	var answer struct{ Effect string }
	if err := c.read(&answer); err != nil || answer.Effect != "known" {
		return fmt.Errorf("the webhook was answered with %s, not as known", clean(string(c.body)))
	}
	for ev, err := range d.client.Events(ctx, api.EventFilter{Type: events.MembershipRemoved.Name, UserID: d.dana}) {
		if err != nil || ev.ID != d.told {
			return errors.Join(fmt.Errorf("there is another removal, %s", ev.ID), err)
		}
	}
	d.title("The identity provider tells the same, and nobody is told twice")
	d.calls(c)
	d.fact("signature verified; the departure is " + answer.Effect + ", and not announced again")
	return nil
}

// leaveBySCIM lets Dana come back and her company's directory switch her off.
func (d *demo) leaveBySCIM(ctx context.Context) error {
	back, err := d.add(ctx)
	if err != nil {
		return err
	}
	if err := d.app.write(ctx, d.northwind, d.dana, "Lessons learned"); err != nil {
		return err
	}
	if d.directory, err = d.client.InEnvironment("").CreateDirectory(ctx, api.NewSCIMDirectory{OrganizationID: d.northwind, Name: "Okta"}); err != nil {
		return fmt.Errorf("create directory: %w", err)
	}
	manager, err := d.createSCIM(ctx, inesEmail, "")
	if err != nil {
		return err
	}
	if d.danaSCIM, err = d.createSCIM(ctx, danaEmail, manager); err != nil {
		return err
	}
	off, err := d.switchDana(ctx, false)
	if err != nil {
		return err
	}
	if _, err := d.removal(ctx, events.Membership{Reason: "scim", Successor: &events.Successor{UserID: d.ines, Source: "manager"}}); err != nil {
		return err
	}
	r, err := d.handedOver(ctx, http.StatusOK)
	if err != nil {
		return err
	}
	d.title("She comes back, and leaves again by her company's directory")
	back.note, off.note = "a member again", "SCIM, active: false"
	d.calls(back, off)
	d.fact("nobody named a successor: the directory knows that Inès Moreau is her manager")
	d.attempts(d.delivery.Attempts)
	d.receipt(r)
	return d.expectOwners(ctx, false, map[string]int{d.ines: 5})
}

// comeBack lets Dana be removed while the app is down, and be back before it is
// told.
func (d *demo) comeBack(ctx context.Context) error {
	if _, err := d.switchDana(ctx, true); err != nil {
		return err
	}
	if err := d.app.write(ctx, d.northwind, d.dana, "Second thoughts"); err != nil {
		return err
	}
	if _, err := d.client.PauseEndpoint(ctx, d.endpoint.ID); err != nil {
		return fmt.Errorf("pause endpoint: %w", err)
	}
	calls := d.app.calls.Load()
	off, err := d.remove(ctx)
	if err != nil {
		return err
	}
	if _, err := d.removal(ctx, events.Membership{Reason: "api", Successor: &events.Successor{UserID: d.ines, Source: "request"}}); err != nil {
		return err
	}
	if err := d.deliveryOf(ctx, d.told); err != nil {
		return err
	}
	waited := d.delivery
	back, err := d.add(ctx)
	if err != nil {
		return err
	}
	// What the answer to that promises, is so already.
	if d.delivery, err = d.client.Delivery(ctx, waited.ID); err != nil {
		return fmt.Errorf("get delivery: %w", err)
	}
	if waited.State != "pending" || d.delivery.State != "superseded" {
		return fmt.Errorf("the delivery was %s and is %s, not pending and superseded", waited.State, d.delivery.State)
	}
	if _, err := d.client.ResumeEndpoint(ctx, d.endpoint.ID); err != nil {
		return fmt.Errorf("resume endpoint: %w", err)
	}
	replay, err := d.replayed(ctx)
	if err != nil {
		return err
	}
	_, refused := d.client.RetryDelivery(ctx, d.delivery.ID)
	if answer := new(api.Error); !errors.As(refused, &answer) || answer.Status != http.StatusConflict || replay.Done != 0 || replay.Skipped != 1 {
		return fmt.Errorf("a superseded delivery can be sent again: %d of %d replayed, %w", replay.Done, replay.Total, refused)
	}
	if last, err := d.client.Delivery(ctx, d.delivery.ID); err != nil || last.AttemptCount != 0 || d.app.calls.Load() != calls {
		return errors.Join(errors.New("the app was told although she is back"), err)
	}
	d.title("She is removed by mistake while the app is down, and back before it is told")
	off.note, back.note = d.delivery.ID+" is "+waited.State, "in the same transaction it is "+d.delivery.State
	d.calls(off, back)
	d.fact(fmt.Sprintf("%s skips it, and a retry is refused: %s", replay.ID, refused))
	d.fact("no attempt was made: the app is up again, and never hears of it")
	return d.expectOwners(ctx, true, map[string]int{d.ines: 5, d.dana: 1})
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

// expectOwners checks who owns how many documents, and shows them.
func (d *demo) expectOwners(ctx context.Context, show bool, want map[string]int) error {
	documents, err := d.app.documents(ctx)
	if err != nil {
		return err
	}
	names := map[string]string{d.dana: "Dana Rivers", d.ines: "Inès Moreau"}
	t := table{head: []string{"  DOCUMENT", "OWNER"}}
	got := map[string]int{}
	for _, doc := range documents {
		got[doc.owner]++
		owner := names[doc.owner]
		if doc.owner == d.dana {
			owner = d.s.warn(owner)
		}
		t.add("  "+doc.title, owner)
	}
	if show {
		t.print(d.out, d.s)
	}
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

func (d *demo) title(text string) {
	d.step++
	d.say("\n%s", d.s.strong(fmt.Sprintf("%d  %s", d.step, text)))
}

func (d *demo) receipt(r handlers.Resource) {
	d.fact(fmt.Sprintf("the app's receipt: %s, %d of %s transferred to %s", r.Type, r.Transferred, plural(r.Found, "found", "found"), r.To))
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
  %[3]s deliveries list
  %[3]s trigger %[4]s --organization %[5]s --user %[6]s --set data.successor.user_id=%[7]s
  %[3]s listen`, d.service.URL, d.service.NewAPIKey, d.self, events.MembershipRemoved.Name, d.northwind, d.dana, d.ines)
	<-ctx.Done()
}
