package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"

	"github.com/handover-dev/handover/internal/api"
)

// What one request imports at most; the service takes 1 MiB.
const (
	importMembers = 500
	importBytes   = 512 << 10
)

type importCommand struct {
	*cli
	organization, path, format string
}

func (c *cli) importCommand() *cobra.Command {
	i := importCommand{cli: c}
	cmd := &cobra.Command{
		Use:   "import",
		Short: "Make an existing installation's members known",
		Long: `Make the members of an existing installation known, without telling the apps: they
know them already. From then on, who leaves is noticed.

The whole list is read first; when a line is wrong, nothing is sent. Who is known
here is left as they are, also who left, so the same list can be given again, for
example after an interruption. To bring back who left, see: handover reconcile -h
` + memberFormat,
		Example: `  handover import --organization acme-1 --file members.csv
  ./export-members | handover import --organization org_… --file - --format jsonl`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return i.run(cmd.Context()) },
	}
	f := cmd.Flags()
	f.StringVar(&i.organization, "organization", "", "whose members they are: org_… or its external id")
	f.StringVar(&i.path, "file", "", "the list: members.csv, members.jsonl, or - for stdin")
	formatFlag(cmd, &i.format)
	typedOnly(f)
	_, _ = cmd.MarkFlagRequired("organization"), cmd.MarkFlagRequired("file") // the only error is a flag that does not exist
	c.environmentFlag(cmd)
	c.clientFlags(cmd)
	return cmd
}

// importedList is what an import did.
type importedList struct {
	OrganizationID string `json:"organization_id"`
	Members        int    `json:"members"`
	Added          int    `json:"added"`
	Known          int    `json:"known"`
	Refused        int    `json:"refused"`

	refused []*lineError // the first of them
}

func (i *importCommand) run(ctx context.Context) error {
	l, err := i.openList(i.path, i.format)
	if err != nil {
		return err
	}
	defer l.close()
	total, err := l.check(i.err)
	if err != nil {
		return err
	}
	o, err := i.cli.organization(ctx, i.organization)
	if err != nil {
		return err
	}
	done := importedList{OrganizationID: o.ID}
	bar := i.bar(int64(total), "members")
	defer bar.Close()
	err = batches(l, func(rows []row) error { return i.send(ctx, o.ID, rows, &done, bar) })
	_ = bar.Close()
	if err != nil {
		return hinted{
			fmt.Errorf("after %d of %s: %w", done.Members, plural(int64(total), "member", "members"), err),
			"give the list again: who is known by now is left as they are",
		}
	}
	for _, refused := range done.refused {
		fmt.Fprintf(i.err, "%s:%d: %s\n", l.name, refused.line, clean(refused.Error()))
	}
	line := fmt.Sprintf("%s of %s imported: %d new, %d known before", plural(int64(done.Members), "member", "members"), named(o), done.Added, done.Known)
	if err := i.changed(nil, done, line); err != nil {
		return err
	}
	if done.Refused > 0 {
		return fmt.Errorf("%s could not be imported", plural(int64(done.Refused), "member", "members"))
	}
	return nil
}

// send imports some members. When one of them makes the service refuse all, it
// finds out which.
func (i *importCommand) send(ctx context.Context, organizationID string, rows []row, done *importedList, bar *progressbar.ProgressBar) error {
	members := make([]api.ImportMember, len(rows))
	for n, r := range rows {
		members[n] = r.ImportMember
	}
	r, err := i.people().ImportMembers(ctx, organizationID, members)
	switch code := status(err); {
	case code != http.StatusConflict && code != http.StatusUnprocessableEntity:
		if err != nil {
			return err
		}
		done.Members += len(rows)
		done.Added += r.Added
		done.Known += r.Known
	case len(rows) > 1:
		half := len(rows) / 2
		if err := i.send(ctx, organizationID, rows[:half], done, bar); err != nil {
			return err
		}
		return i.send(ctx, organizationID, rows[half:], done, bar)
	default:
		if done.Refused++; done.Refused <= maxBadLines {
			done.refused = append(done.refused, &lineError{err, rows[0].line})
		}
	}
	_ = bar.Add(len(rows)) // a bar that cannot be drawn is no concern of ours
	return nil
}

// bar shows progress on a terminal, and nothing elsewhere.
func (c *cli) bar(total int64, what string) *progressbar.ProgressBar {
	return progressbar.NewOptions64(total, progressbar.OptionSetWriter(c.err), progressbar.OptionSetVisibility(isTerminal(c.err)),
		progressbar.OptionShowCount(), progressbar.OptionClearOnFinish(), progressbar.OptionShowIts(),
		progressbar.OptionSetItsString(what), progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionSetRenderBlankState(true))
}

// batches reads a list in parts that fit into a request.
func batches(l *memberList, send func([]row) error) error {
	var batch []row
	size := 0
	for row, err := range l.rows() {
		if err != nil {
			return fmt.Errorf("read %s again: %w", l.name, err)
		}
		encoded, err := json.Marshal(row.ImportMember)
		if err != nil {
			return fmt.Errorf("encode a member: %w", err)
		}
		if len(batch) == importMembers || size+len(encoded) > importBytes {
			if err := send(batch); err != nil {
				return err
			}
			batch, size = batch[:0], 0
		}
		batch, size = append(batch, row), size+len(encoded)+1
	}
	if len(batch) == 0 {
		return nil
	}
	return send(batch)
}
