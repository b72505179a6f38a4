package instantapi

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"

	"github.com/instantapi/caddy-instantapi-verify/store"
)

// backupQuestion is the body of a request for a copy of the store.
type backupQuestion struct {
	Directory string `json:"directory"` // absolute, new or empty
}

// backupAnswer says that the copy is complete and durable.
type backupAnswer struct {
	Directory string `json:"directory"`
	Events    int64  `json:"events"`
	Bytes     int64  `json:"bytes"`
}

// handleBackup copies the store while it is in use, and answers when the copy
// is done. The status is 400 if the directory can't take a copy, 404 if the
// config has no store, 501 if the store can't be copied, and 503 if copying failed.
func handleBackup(w http.ResponseWriter, r *http.Request) error {
	if err := allowMethods(w, r, http.MethodPost); err != nil {
		return err
	}
	var question backupQuestion
	if err := json.NewDecoder(io.LimitReader(r.Body, 64<<10)).Decode(&question); err != nil {
		return apiError(http.StatusBadRequest, `the body is not {"directory": "<absolute path>"}: %w`, err)
	}
	app, events := acquireRunning()
	if app == nil {
		return errNoStore()
	}
	defer app.release()
	opened, err := events.Store()
	if err != nil {
		return apiError(http.StatusServiceUnavailable, "the store is not open: %w", err)
	}
	backuper, ok := opened.(store.Backuper)
	if !ok {
		return apiError(http.StatusNotImplemented, "the store %s has no backups of its own; use those of its engine", app.key)
	}
	report, err := backuper.Backup(r.Context(), question.Directory)
	switch {
	case errors.Is(err, store.ErrBackupDirectory):
		return apiError(http.StatusBadRequest, "%w", err)
	case err != nil:
		return apiError(http.StatusServiceUnavailable, "copying the store: %w", err)
	}
	return answerJSONReport(w, backupAnswer{question.Directory, report.Events, report.Bytes})
}
