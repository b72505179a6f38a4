package cli

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"

	"github.com/caddyserver/caddy/v2"
	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
)

// backupReport is the admin API's answer about a finished backup.
type backupReport struct {
	Directory string `json:"directory"`
	Events    int64  `json:"events"`
	Bytes     int64  `json:"bytes"`
}

func newBackupCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "backup <directory>",
		Example: "  caddy instantapi backup /var/backups/instantapi_verify/$(date +%F)",
		Short:   "Copies the store of delivered events while it is in use",
		Long: `Copies the store of delivered events to a directory that is new or empty, while
the guard goes on working. The copy is a store of its own: put it in the place of
the store, or give it as the store's path. Do not copy the files of a store in use
by other means, because such a copy may be incomplete.

The running Caddy writes the copy, so the directory is on its machine, and its user
must be allowed to write there.
` + adminHelp + `

Exit status: 0 if the copy is written, 1 for an error.`,
		Args: oneDirectory,
	}
	return adminCommand(cmd, func(admin adminClient, out io.Writer) (int, error) {
		directory, err := filepath.Abs(admin.flags.Arg(0))
		if err != nil {
			return caddy.ExitCodeFailedStartup, err
		}
		question := struct {
			Directory string `json:"directory"`
		}{directory}
		var report backupReport
		raw, err := admin.request(http.MethodPost, "/instantapi_verify/backup", question, &report)
		if err != nil {
			return caddy.ExitCodeFailedStartup, err
		}
		if admin.json {
			_, err = out.Write(raw)
		} else {
			_, err = fmt.Fprintf(out, "Wrote %s, %s, to %s\n",
				countOf(report.Events, "event"), humanize.IBytes(uint64(report.Bytes)), report.Directory)
		}
		return caddy.ExitCodeSuccess, err
	})
}

// countOf says how many there are, like "1 event" and "1,234 events".
func countOf(n int64, what string) string {
	if n != 1 {
		what += "s"
	}
	return humanize.Comma(n) + " " + what
}

func oneDirectory(_ *cobra.Command, args []string) error {
	if len(args) != 1 || args[0] == "" {
		return errors.New("give one directory to write the copy to; see --help")
	}
	return nil
}
