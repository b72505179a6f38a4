// Command bench measures what the guard costs beside a plain reverse_proxy, on
// the machine that it runs on:
//
//	go -C bench run .
//
// It builds Caddy with this module, starts a backend that only counts, and lets
// the scenarios take turns. Each request's answer is checked, and the backend's
// count is compared with what was sent: a wrong answer, however fast, ends the
// run with an error.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	if os.Getenv(roleVariable) == roleBackend {
		signal.Ignore(os.Interrupt) // the terminal sends it to everyone; the parent says when to end
		if err := runBackend(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "backend:", err)
			os.Exit(1)
		}
		return
	}
	o, err := parseOptions(os.Args[1:], os.Stdout)
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%v (-h shows the flags)\n", err)
		os.Exit(2)
	}
	// Whatever ends the run, its servers and stores are removed.
	signal.Ignore(syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err = runAndReport(ctx, o, os.Stdout, os.Stderr)
	if ctx.Err() != nil {
		fmt.Fprintln(os.Stderr, "interrupted")
		os.Exit(1)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "FAILED:", err)
		os.Exit(1)
	}
}

// runAndReport does what the options say, and writes the table to out.
func runAndReport(ctx context.Context, o options, out, status io.Writer) error {
	b, err := newBench(ctx, o, status)
	if err != nil {
		return err
	}
	defer b.close()
	report := newReport(b)
	if o.slowSenders > 0 {
		if report.SlowSenders, err = b.slowSenders(ctx); err != nil {
			return err
		}
	} else if err := b.measure(ctx, report); err != nil {
		return err
	}
	if err := report.write(out); err != nil {
		return err
	}
	if o.json != "" {
		if err := report.writeJSON(o.json); err != nil {
			return err
		}
	}
	if o.plot != "" {
		if err := report.writePlot(o.plot); err != nil {
			return err
		}
	}
	if o.profiles != "" {
		return b.profile(ctx)
	}
	return nil
}
