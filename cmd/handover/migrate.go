package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/handover-dev/handover/internal/app"
)

type schema struct {
	Before int64 `json:"before"`
	Now    int64 `json:"now"`
	Target int64 `json:"target"`
}

func (c *cli) migrateCommand() *cobra.Command {
	var config app.Config
	var status bool
	cmd := &cobra.Command{
		Use:   "migrate",
		Short: "Bring the database up to date",
		Long: `Bring the schema of the database up to date, under a lock, and print its version.
handover serve does so itself at its start; migrate is for those who want it done
before. A database that a newer version has written is left alone.

--status only looks; exit code 1 when there is something to do.
`,
		Example: `  handover migrate --database-url postgres://handover@db/handover
  handover migrate --status`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if _, err := where(config.DatabaseURL, "--database-url", "postgres", "postgresql"); err != nil {
				return err
			}
			var v schema
			var err error
			if v.Before, v.Target, err = app.SchemaVersions(cmd.Context(), config); err != nil {
				return err
			}
			if v.Now = v.Before; !status {
				if err := app.Migrate(cmd.Context(), config); err != nil {
					return err
				}
				v.Now = v.Target
			}
			return c.printSchema(v)
		},
	}
	c.databaseFlags(cmd, &config)
	cmd.Flags().BoolVar(&status, "status", false, "only tell whether there is something to do")
	c.jsonFlag(cmd)
	return cmd
}

func (c *cli) printSchema(v schema) error {
	line := fmt.Sprintf("the schema is at version %d, up to date", v.Now)
	switch {
	case v.Now < v.Target:
		line = fmt.Sprintf("the schema is at version %d, and %d is there: handover migrate", v.Now, v.Target)
	case v.Before < v.Now:
		line = fmt.Sprintf("migrated the schema from version %d to %d", v.Before, v.Now)
	}
	if err := c.changed(nil, v, line); err != nil || v.Now == v.Target {
		return err
	}
	return errQuiet
}
