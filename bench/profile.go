package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

// profile gives each scenario of the first group three more turns, each on a
// server of its own, and saves the servers' profiles. These turns are not in
// the report.
func (b *bench) profile(ctx context.Context) error {
	if err := os.MkdirAll(b.profiles, 0o755); err != nil {
		return err
	}
	g := b.groups[0]
	t, err := newTemplate(g.size)
	if err != nil {
		return err
	}
	for _, s := range g.scenarios {
		if err := b.profileScenario(ctx, g, t, s); err != nil {
			return fmt.Errorf("profiling %s: %w", s.name, err)
		}
	}
	fmt.Fprintf(b.status, "profiles of %s are in %s\n", g, b.profiles)
	return nil
}

func (b *bench) profileScenario(ctx context.Context, g group, t *template, s scenario) error {
	seconds := max(1, int(b.duration.Seconds()))
	for _, turn := range []struct {
		sets    []string
		environ []string
	}{
		// Alone, because recording the locks costs CPU time.
		{[]string{fmt.Sprintf("profile?seconds=%d", seconds)}, nil},
		{[]string{fmt.Sprintf("allocs?seconds=%d", seconds), fmt.Sprintf("mutex?seconds=%d", seconds),
			fmt.Sprintf("block?seconds=%d", seconds)}, []string{"INSTANTAPI_BENCH_PROFILE=1"}},
		{[]string{"trace?seconds=1"}, nil},
	} {
		if err := b.profileTurn(ctx, g, t, s, turn.sets, turn.environ); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) profileTurn(ctx context.Context, g group, t *template, s scenario, sets, environ []string) error {
	run, err := b.start(ctx, g, t, s, environ...)
	if err != nil {
		return err
	}
	defer run.stop()
	saved := make(chan error, len(sets))
	time.AfterFunc(run.load().warmup, func() {
		for _, set := range sets {
			go func() { saved <- run.save(ctx, set) }()
		}
	})
	if _, err := run.turn(ctx); err != nil {
		return err
	}
	for range sets {
		if err := <-saved; err != nil {
			return err
		}
	}
	return nil
}

// save saves one of the profiles from Caddy's admin API, like
// guard.profile.pprof.
func (r *runner) save(ctx context.Context, set string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+r.admin+"/debug/pprof/"+set, nil)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", set, res.Status)
	}
	name := filepath.Base(req.URL.Path)
	ending := ".pprof"
	if name == "trace" {
		ending = ""
	}
	f, err := os.Create(filepath.Join(r.bench.profiles, r.scenario.name+"."+name+ending))
	if err != nil {
		return err
	}
	if _, err := io.Copy(f, res.Body); err != nil {
		return err
	}
	return f.Close()
}
