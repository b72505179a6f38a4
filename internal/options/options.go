// Package options reads the options of a Caddyfile block according to a table
// with one row per option.
package options

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/dustin/go-humanize"
)

// Option is a row of a block's table.
type Option struct {
	Name       string
	Arguments  Arguments
	Repeatable bool

	// Set gets the arguments, none of them empty. Its error is reported with
	// the option's name and line.
	Set func(args []string) error
}

// Arguments says how many arguments an option takes.
type Arguments int

// Numbers of arguments.
const (
	One Arguments = iota
	None
	OneOrMore
)

// ReadBlock reads the block that follows in d. An unknown option, a repeated
// option that is not repeatable, a wrong number of arguments, an empty argument
// and a nested block are errors that name the option and the line.
func ReadBlock(d *caddyfile.Dispenser, table []Option) error {
	seen := make(map[string]bool)
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		name := d.Val()
		i := slices.IndexFunc(table, func(o Option) bool { return o.Name == name })
		if i < 0 {
			return d.Errf("unknown option %s; the options are %s", name, names(table))
		}
		if seen[name] && !table[i].Repeatable {
			return d.Errf("%s is repeated; give it once", name)
		}
		seen[name] = true
		if err := table[i].read(d); err != nil {
			return err
		}
	}
	return nil
}

func (o Option) read(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	switch {
	case o.Arguments == None && len(args) > 0:
		return d.Errf("%s takes no argument", o.Name)
	case o.Arguments == One && len(args) != 1:
		return d.Errf("%s takes one argument, not %d", o.Name, len(args))
	case o.Arguments == OneOrMore && len(args) == 0:
		return d.Errf("%s needs an argument", o.Name)
	case slices.Contains(args, ""):
		return d.Errf("%s: an argument is empty", o.Name)
	case d.NextBlock(d.Nesting()):
		return d.Errf("%s takes no block", o.Name)
	}
	if err := o.Set(args); err != nil {
		return d.Errf("%s: %v", o.Name, err)
	}
	return nil
}

func names(table []Option) string {
	all := make([]string, len(table))
	for i := range table {
		all[i] = table[i].Name
	}
	return strings.Join(all, ", ")
}

// Text returns a Set that keeps the argument as it is.
func Text(target *string) func([]string) error {
	return func(args []string) error {
		*target = args[0]
		return nil
	}
}

// Size returns a Set for a number of bytes above 0, like 4MiB.
func Size(target *int64) func([]string) error {
	return func(args []string) error {
		size, err := humanize.ParseBytes(args[0])
		if err != nil || size == 0 || size > math.MaxInt64 {
			return fmt.Errorf("%q is not a size above 0, like 4MiB", args[0])
		}
		*target = int64(size)
		return nil
	}
}

// Duration returns a Set for a duration of 0 or more, like 5s.
func Duration(target *caddy.Duration) func([]string) error {
	return func(args []string) error {
		d, err := caddy.ParseDuration(args[0])
		if err != nil || d < 0 {
			return fmt.Errorf("%q is not a duration, like 5s", args[0])
		}
		*target = caddy.Duration(d)
		return nil
	}
}

// Flag returns a Set for an option that is on if it is present.
func Flag(target *bool) func([]string) error {
	return func([]string) error {
		*target = true
		return nil
	}
}

// Switch returns a Set for on or off.
func Switch(target **bool) func([]string) error {
	return func(args []string) error {
		if args[0] != "on" && args[0] != "off" {
			return fmt.Errorf("%q is neither on nor off", args[0])
		}
		on := args[0] == "on"
		*target = &on
		return nil
	}
}
