package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/spf13/cobra"

	"github.com/handover-dev/handover/internal/api"
)

type reconcileCommand struct {
	*cli
	organization, path, format string
	apply, force               bool
}

func (c *cli) reconcileCommand() *cobra.Command {
	r := reconcileCommand{cli: c}
	cmd := &cobra.Command{
		Use:   "reconcile",
		Short: "Find who left or returned without anybody being told",
		Long: `Compare a list of an organization's members, as the identity provider exports it,
with the members that are held here, and show the differences:

  left      silent leavers: held as ACTIVE, not in the list, or INACTIVE there
  returned  silent returners: ACTIVE in the list, not held, or held as INACTIVE

People are matched by id, else by external id, else by email in any letter case.
Invitations are left alone. Export the list just before: who joined since then
looks like a leaver.

Nothing is changed without --apply, which adds who returned and removes who left,
as if the identity provider had told of each: apps hand over what leavers had. A
list that is empty, or looks as if its end were missing, is refused; so is the
removal of more than a tenth of the active members, unless --force is there.

Exit code 0 when the comparison, and what --apply asked for, could be done,
whether or not there are differences; with --json they are one object a line.
` + memberFormat,
		Example: `  handover reconcile --organization acme-1 --source members.csv
  handover reconcile --organization acme-1 --source members.csv --apply`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return r.run(cmd.Context()) },
	}
	f := cmd.Flags()
	f.StringVar(&r.organization, "organization", "", "whose members they are: org_… or its external id")
	f.StringVar(&r.path, "source", "", "the list: members.csv, members.jsonl, or - for stdin")
	formatFlag(cmd, &r.format)
	f.BoolVar(&r.apply, "apply", false, "add who returned and remove who left")
	f.BoolVar(&r.force, "force", false, "also if that removes more than a tenth of the active members")
	typedOnly(f)
	_, _ = cmd.MarkFlagRequired("organization"), cmd.MarkFlagRequired("source") // the only error is a flag that does not exist
	c.environmentFlag(cmd)
	c.clientFlags(cmd)
	return cmd
}

// A difference is a person whose membership is another one in the list than here.
type difference struct {
	Change     string   `json:"change"` // left, returned
	UserID     string   `json:"user_id,omitempty"`
	Email      string   `json:"email,omitempty"`
	ExternalID string   `json:"external_id,omitempty"`
	Name       string   `json:"name,omitempty"`
	Status     string   `json:"status,omitempty"` // held
	Line       int      `json:"line,omitempty"`   // of the list
	Roles      []string `json:"-"`

	Applied bool   `json:"applied"`
	EventID string `json:"event_id,omitempty"`
	Note    string `json:"note,omitempty"`
}

// compare finds the differences, and counts the members who are held as active.
func compare(held []api.Member, listed []row) (diffs []difference, active int) {
	byID, byExternalID, byEmail := map[string]int{}, map[string]int{}, map[string]int{}
	for i, m := range held {
		byID[m.UserID] = i
		if m.ExternalID != "" {
			byExternalID[m.ExternalID] = i
		}
		if m.Email != "" {
			byEmail[strings.ToLower(m.Email)] = i
		}
	}
	match := func(r row) (int, bool) {
		if i, ok := byID[r.ID]; ok {
			return i, true
		}
		if i, ok := byExternalID[r.ExternalID]; ok {
			return i, true
		}
		i, ok := byEmail[strings.ToLower(r.Email)]
		return i, ok
	}
	stays, returns, added := make([]bool, len(held)), make([]bool, len(held)), map[string]bool{}
	for _, r := range listed {
		if r.Status == "INACTIVE" {
			continue
		}
		i, known := match(r)
		if known {
			stays[i] = true
		}
		if r.Status != "" && r.Status != "ACTIVE" || known && (held[i].Status != "INACTIVE" || returns[i]) {
			continue
		}
		if key := cmp.Or(strings.ToLower(r.Email), r.ID); !known {
			if added[key] {
				continue
			}
			added[key] = true
		}
		d := difference{Change: "returned", UserID: r.ID, Email: r.Email, ExternalID: r.ExternalID, Name: r.Name, Roles: r.Roles, Line: r.line}
		if known {
			m := held[i]
			returns[i] = true
			if len(d.Roles) == 0 {
				d.Roles = m.Roles
			}
			d.UserID, d.Email, d.ExternalID, d.Name, d.Status = m.UserID, m.Email, m.ExternalID, m.Name, m.Status
		}
		diffs = append(diffs, d)
	}
	for i, m := range held {
		if m.Status != "ACTIVE" {
			continue
		}
		active++
		if !stays[i] {
			diffs = append(diffs, difference{Change: "left", UserID: m.UserID, Email: m.Email, ExternalID: m.ExternalID, Name: m.Name, Status: m.Status})
		}
	}
	return diffs, active
}

func (r *reconcileCommand) run(ctx context.Context) error {
	if r.force && !r.apply {
		return usagef("--force is for --apply")
	}
	listed, err := r.list()
	if err != nil {
		return err
	}
	o, err := r.cli.organization(ctx, r.organization)
	if err != nil {
		return err
	}
	var held []api.Member
	for m, err := range r.people().Members(ctx, o.ID) {
		if err != nil {
			return err
		}
		held = append(held, m)
	}
	diffs, active := compare(held, listed)
	left := 0
	for _, d := range diffs {
		if d.Change == "left" {
			left++
		}
	}
	many := left*10 > active
	var failed error
	if r.apply && (!many || r.force) {
		failed = r.applyAll(ctx, o.ID, diffs)
	}
	if err := r.print(o, diffs, len(listed)); err != nil {
		return err
	}
	total := fmt.Sprintf("%s, %s; %s held as active", plural(int64(left), "silent leaver", "silent leavers"),
		plural(int64(len(diffs)-left), "silent returner", "silent returners"), plural(int64(active), "member", "members"))
	switch {
	case failed != nil:
		return failed
	case r.apply && many && !r.force:
		return hinted{fmt.Errorf("%s: that removes more than a tenth of them, so nothing was changed", total), "if the list is whole: --apply --force"}
	case len(diffs) > 0 && !r.apply && many:
		fmt.Fprintln(r.err, total+". Nothing was changed; --apply --force does it, if the list is whole.")
	case len(diffs) > 0 && !r.apply:
		fmt.Fprintln(r.err, total+". Nothing was changed; --apply does it.")
	case len(diffs) > 0:
		fmt.Fprintln(r.err, total+".")
	}
	return nil
}

// list reads the list, which has to be whole.
func (r *reconcileCommand) list() ([]row, error) {
	l, err := r.openList(r.path, r.format)
	if err != nil {
		return nil, err
	}
	defer l.close()
	total, err := l.check(r.err)
	if err != nil {
		return nil, err
	}
	whole, err := l.whole()
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", l.name, err)
	}
	if !whole {
		return nil, fmt.Errorf("%s looks as if its end were missing: the last line does not end with a line break", l.name)
	}
	listed := make([]row, 0, total)
	for row, err := range l.rows() {
		if err != nil {
			return nil, fmt.Errorf("read %s again: %w", l.name, err)
		}
		listed = append(listed, row)
	}
	return listed, nil
}

// applyAll adds who returned, then removes who left. What one person makes
// impossible does not hinder the others; a service that cannot be asked ends it.
func (r *reconcileCommand) applyAll(ctx context.Context, organizationID string, diffs []difference) error {
	bar := r.bar(int64(len(diffs)), "people")
	defer bar.Close()
	refused := 0
	for i := range diffs {
		d := &diffs[i]
		err := r.applyOne(ctx, organizationID, d)
		var answer *api.Error
		switch {
		case err == nil:
		case errors.As(err, &answer) && answer.Status < http.StatusInternalServerError && answer.Status != http.StatusUnauthorized:
			d.Note = answer.Error()
			refused++
		default:
			return hinted{fmt.Errorf("after %d of %s: %w", i, plural(int64(len(diffs)), "difference", "differences"), err), "say it again: what was done is no difference any more"}
		}
		_ = bar.Add(1) // a bar that cannot be drawn is no concern of ours
	}
	if refused > 0 {
		return fmt.Errorf("%s could not be applied", plural(int64(refused), "difference", "differences"))
	}
	return nil
}

func (r *reconcileCommand) applyOne(ctx context.Context, organizationID string, d *difference) error {
	if d.Change == "left" {
		removal, err := r.people().RemoveMember(ctx, organizationID, d.UserID, api.Leaving{Reason: "upstream"})
		if status(err) == http.StatusNotFound {
			d.Applied, d.Note = true, "was removed meanwhile"
			return nil
		}
		d.Applied, d.EventID = err == nil, removal.EventID
		return err
	}
	added, err := r.add(ctx, organizationID, *d)
	if err == nil {
		d.Applied, d.UserID = true, added.UserID
	}
	return err
}

// add makes a returner a member: with the account that there is, or a new one.
func (r *reconcileCommand) add(ctx context.Context, organizationID string, d difference) (api.Member, error) {
	again := func(userID string) (api.Member, error) {
		return r.people().AddMember(ctx, organizationID, api.NewMember{UserID: userID, Roles: d.Roles})
	}
	if d.UserID != "" {
		added, err := again(d.UserID)
		if status(err) != http.StatusUnprocessableEntity || d.Email == "" {
			return added, err
		}
	}
	added, err := r.people().AddMember(ctx, organizationID, api.NewMember{Email: d.Email, ExternalID: d.ExternalID, Name: d.Name, Roles: d.Roles})
	if status(err) == http.StatusConflict && d.ExternalID != "" {
		for u, found := range r.people().Users(ctx, d.ExternalID) {
			if found == nil && strings.EqualFold(u.Email, d.Email) {
				return again(u.ID)
			}
			return added, cmp.Or(found, err)
		}
	}
	return added, err
}

// status is what the API answered instead of a result, or 0.
func status(err error) int {
	var answer *api.Error
	if errors.As(err, &answer) {
		return answer.Status
	}
	return 0
}

func (r *reconcileCommand) print(o api.Organization, diffs []difference, listed int) error {
	if r.json {
		for _, d := range diffs {
			if err := r.printJSON(d); err != nil {
				return err
			}
		}
		return nil
	}
	if len(diffs) == 0 {
		fmt.Fprintf(r.out, "no differences between %s and the list of %d\n", named(o), listed)
		return nil
	}
	s := r.style(r.out)
	t := table{head: []string{"CHANGE", "ID", "EMAIL", "NAME", "HELD AS"}}
	if r.apply {
		t.head = append(t.head, "DONE")
	}
	for _, d := range diffs {
		change := s.warn(d.Change)
		if d.Change == "returned" {
			change = s.good(d.Change)
		}
		cells := []string{change, orDash(clean(d.UserID)), orDash(clean(d.Email)), orDash(clean(d.Name)), orDash(d.Status)}
		if r.apply {
			cells = append(cells, d.outcome())
		}
		t.add(cells...)
	}
	t.print(r.out, s)
	return nil
}

// outcome says what was done about a difference.
func (d difference) outcome() string {
	switch {
	case d.Note != "":
		return clean(d.Note)
	case d.EventID != "":
		return clean(d.EventID)
	case d.Applied && d.Change == "left":
		return "removed"
	case d.Applied:
		return "added"
	}
	return "-"
}
