package main

import (
	"fmt"
	"io"
	"os"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// progress shows a line that says what is going on and how long it will take;
// if the output is not a terminal, it prints one line per scenario.
type progress struct {
	out  io.Writer
	bar  *progressbar.ProgressBar // nil: out is no terminal
	last string
}

func newProgress(out io.Writer, turns int) *progress {
	p := &progress{out: out}
	if f, ok := out.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		p.bar = progressbar.NewOptions(turns,
			progressbar.OptionSetWriter(out),
			progressbar.OptionSetWidth(20),
			progressbar.OptionShowCount(),
			progressbar.OptionSetElapsedTime(false),
			progressbar.OptionSetPredictTime(true),
			progressbar.OptionClearOnFinish())
	}
	return p
}

// next says that a turn begins.
func (p *progress) next(what string) {
	if p.bar != nil {
		p.bar.Describe(fmt.Sprintf("%-55s", what))
		_ = p.bar.Add(1)
		return
	}
	if what != p.last {
		fmt.Fprintln(p.out, what)
		p.last = what
	}
}

func (p *progress) end() {
	if p.bar != nil {
		_ = p.bar.Finish()
	}
}
