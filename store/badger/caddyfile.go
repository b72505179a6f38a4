package badger

import (
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/instantapi/caddy-instantapi-verify/internal/options"
)

// UnmarshalCaddyfile reads the store:
//
//	badger {
//		path           <directory>
//		sync           on|off
//		min_free_space <size>
//	}
func (m *Module) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the module's name
	if d.NextArg() {
		return d.Err("badger takes no argument, only a block")
	}
	return options.ReadBlock(d, []options.Option{
		{Name: "path", Set: options.Text(&m.Path)},
		{Name: "sync", Set: options.Switch(&m.Sync)},
		{Name: "min_free_space", Set: options.Size(&m.MinFreeSpace)},
	})
}

// Interface guard
var _ caddyfile.Unmarshaler = (*Module)(nil)
