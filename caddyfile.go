package instantapi

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/dustin/go-humanize"
)

func init() {
	httpcaddyfile.RegisterHandlerDirective("instantapi_verify", parseHandler)
	// Before authentication, the first of the directives that answer a request:
	// an event needs no password, and everything else is to see verified bytes.
	httpcaddyfile.RegisterDirectiveOrder("instantapi_verify", httpcaddyfile.Before, "basic_auth")
	httpcaddyfile.RegisterGlobalOption("instantapi_verify", parseGlobal)
}

func parseHandler(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	handler := new(Handler)
	return handler, handler.UnmarshalCaddyfile(h.Dispenser)
}

// parseGlobal reads the global option: the app.
func parseGlobal(d *caddyfile.Dispenser, before any) (any, error) {
	if before != nil {
		return nil, d.Err("the global option instantapi_verify is there already; give it once")
	}
	app := new(App)
	if err := app.UnmarshalCaddyfile(d); err != nil {
		return nil, err
	}
	return httpcaddyfile.App{Name: "instantapi_verify", Value: caddyconfig.JSON(app, nil)}, nil
}

// UnmarshalCaddyfile reads the directive:
//
//	instantapi_verify [<matcher>] [<secret>] {
//		secret                       <secret>...
//		signature_header             <name>
//		max_body_size                <size>
//		answer_verification_requests
//		scope                        <text>
//		dedupe_by                    <field>...
//		retention                    <duration>|forever
//		in_flight_wait               <duration>
//		forward_timeout              <duration>
//		on_store_error               reject|forward
//		verify_only
//	}
//
// A secret is required, in one of the two places; secret may be repeated.
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the directive's name
	if d.NextArg() {
		h.Secrets = append(h.Secrets, d.Val())
	}
	if d.NextArg() {
		return d.Err("instantapi_verify takes one secret on its line; give more of them in a block, with secret")
	}
	seen := make(map[string]bool)
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		option := d.Val()
		if seen[option] && option != "secret" {
			return d.Errf("%s is there twice; give it once", option)
		}
		seen[option] = true
		if err := h.unmarshalOption(d, option); err != nil {
			return err
		}
	}
	if len(h.Secrets) == 0 {
		return d.Err("instantapi_verify needs a secret, like {env.INSTANTAPI_WEBHOOK_SECRET}")
	}
	return nil
}

func (h *Handler) unmarshalOption(d *caddyfile.Dispenser, option string) error {
	args, err := optionArgs(d, option)
	if err != nil {
		return err
	}
	switch option {
	case "secret":
		h.Secrets = append(h.Secrets, args...)
	case "signature_header":
		h.SignatureHeader = args[0]
	case "max_body_size":
		h.MaxBodySize, err = parseSize(args[0])
	case "answer_verification_requests":
		h.AnswerVerificationRequests = true
	case "scope":
		h.Scope = args[0]
	case "dedupe_by":
		h.DedupeBy = args
		err = checkDedupeBy(args)
	case "retention":
		h.Retention, err = ParseRetention(args[0])
	case "in_flight_wait":
		h.InFlightWait = new(caddy.Duration)
		*h.InFlightWait, err = parseDuration(args[0])
	case "forward_timeout":
		h.ForwardTimeout, err = parseDuration(args[0])
		if err == nil && h.ForwardTimeout == 0 {
			err = errors.New("give more than 0")
		}
	case "on_store_error":
		h.OnStoreError = args[0]
		err = checkOnStoreError(args[0])
	case "verify_only":
		h.VerifyOnly = true
	default:
		return d.Errf("unknown option %s", option)
	}
	if err != nil {
		return d.Errf("%s: %v", option, err)
	}
	return nil
}

// UnmarshalCaddyfile reads the global option:
//
//	instantapi_verify {
//		store <module> {
//			<the module's options>
//		}
//	}
func (a *App) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the option's name
	if d.NextArg() {
		return d.Errf("instantapi_verify takes no argument here, only a block")
	}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		if option := d.Val(); option != "store" {
			return d.Errf("unknown option %s", option)
		}
		if a.StoreRaw != nil {
			return d.Err("store is there twice; give it once")
		}
		if !d.NextArg() {
			return d.Err("store needs the name of a module, like badger")
		}
		name := d.Val()
		store, err := caddyfile.UnmarshalModule(d, "instantapi_verify.stores."+name)
		if err != nil {
			return err
		}
		a.StoreRaw = caddyconfig.JSONModuleObject(store, "module", name, nil)
	}
	return nil
}

// optionArgs returns the arguments of an option: none for a switch, one or more
// for a list, else one. It refuses any other number, and a block.
func optionArgs(d *caddyfile.Dispenser, option string) ([]string, error) {
	args := d.RemainingArgs()
	switch option {
	case "answer_verification_requests", "verify_only":
		if len(args) > 0 {
			return nil, d.Errf("%s takes no argument", option)
		}
	case "secret", "dedupe_by":
		if len(args) == 0 {
			return nil, d.Errf("%s needs an argument", option)
		}
	case "signature_header", "max_body_size", "scope", "retention", "in_flight_wait",
		"forward_timeout", "on_store_error":
		if len(args) != 1 {
			return nil, d.Errf("%s takes one argument, not %d", option, len(args))
		}
	default:
		return nil, nil // unknown: the caller says so
	}
	if slices.Contains(args, "") {
		return nil, d.Errf("%s: an argument is empty", option)
	}
	if d.NextBlock(d.Nesting()) {
		return nil, d.Errf("%s takes no block", option)
	}
	return args, nil
}

// parseSize reads a number of bytes like 4MiB.
func parseSize(s string) (int64, error) {
	size, err := humanize.ParseBytes(s)
	if err != nil || size == 0 || size > math.MaxInt64 {
		return 0, fmt.Errorf("%q is not a size above 0, like 4MiB", s)
	}
	return int64(size), nil
}

// parseDuration reads a duration of 0 or more.
func parseDuration(s string) (caddy.Duration, error) {
	d, err := caddy.ParseDuration(s)
	if err != nil || d < 0 {
		return 0, fmt.Errorf("%q is not a duration, like 5s", s)
	}
	return caddy.Duration(d), nil
}

// Interface guards
var (
	_ caddyfile.Unmarshaler = (*Handler)(nil)
	_ caddyfile.Unmarshaler = (*App)(nil)
)
