package instantapi

import (
	"errors"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/instantapi/caddy-instantapi-verify/internal/options"
)

func init() {
	httpcaddyfile.RegisterHandlerDirective("instantapi_verify", parseHandler)
	// The guard comes before authentication, the first of the directives
	// that answer a request: an event needs no password, and all other
	// directives should see verified bytes.
	httpcaddyfile.RegisterDirectiveOrder("instantapi_verify", httpcaddyfile.Before, "basic_auth")
	httpcaddyfile.RegisterGlobalOption("instantapi_verify", parseGlobal)
}

func parseHandler(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	handler := new(Handler)
	return handler, handler.UnmarshalCaddyfile(h.Dispenser)
}

// parseGlobal reads the global option, which configures the app.
func parseGlobal(d *caddyfile.Dispenser, before any) (any, error) {
	if before != nil {
		return nil, d.Err("the global option instantapi_verify is repeated; give it once")
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
//		idempotency_header           <name>|off
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
		return d.Err("instantapi_verify takes one secret on its line; give more of them in a block, with the option secret")
	}
	if err := options.ReadBlock(d, h.options()); err != nil {
		return err
	}
	if len(h.Secrets) == 0 {
		return d.Err("instantapi_verify needs a secret, like {env.INSTANTAPI_WEBHOOK_SECRET}")
	}
	return nil
}

// options are the options of the directive's block.
func (h *Handler) options() []options.Option {
	return []options.Option{
		{Name: "secret", Arguments: options.OneOrMore, Repeatable: true, Set: h.addSecrets},
		{Name: "signature_header", Set: h.setSignatureHeader},
		{Name: "max_body_size", Set: options.Size(&h.MaxBodySize)},
		{Name: "answer_verification_requests", Arguments: options.None, Set: options.Flag(&h.AnswerVerificationRequests)},
		{Name: "scope", Set: options.Text(&h.Scope)},
		{Name: "dedupe_by", Arguments: options.OneOrMore, Set: h.setDedupeBy},
		{Name: "retention", Set: h.setRetention},
		{Name: "in_flight_wait", Set: h.setInFlightWait},
		{Name: "forward_timeout", Set: h.setForwardTimeout},
		{Name: "on_store_error", Set: h.setOnStoreError},
		{Name: "idempotency_header", Set: h.setIdempotencyHeader},
		{Name: "verify_only", Arguments: options.None, Set: options.Flag(&h.VerifyOnly)},
	}
}

func (h *Handler) addSecrets(args []string) error {
	h.Secrets = append(h.Secrets, args...)
	return nil
}

func (h *Handler) setSignatureHeader(args []string) error {
	h.SignatureHeader = args[0]
	return checkHeaderName(args[0])
}

func (h *Handler) setIdempotencyHeader(args []string) error {
	h.IdempotencyHeader = args[0]
	return checkIdempotencyHeader(args[0])
}

func (h *Handler) setDedupeBy(args []string) error {
	h.DedupeBy = args
	return checkDedupeBy(args)
}

func (h *Handler) setRetention(args []string) (err error) {
	h.Retention, err = ParseRetention(args[0])
	return err
}

func (h *Handler) setInFlightWait(args []string) error {
	h.InFlightWait = new(caddy.Duration)
	return options.Duration(h.InFlightWait)(args)
}

func (h *Handler) setForwardTimeout(args []string) error {
	if err := options.Duration(&h.ForwardTimeout)(args); err != nil {
		return err
	}
	if h.ForwardTimeout == 0 {
		return errors.New("give more than 0")
	}
	return nil
}

func (h *Handler) setOnStoreError(args []string) error {
	h.OnStoreError = args[0]
	return checkOnStoreError(args[0])
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
			return d.Errf("unknown option %s; the only option is store", option)
		}
		if a.StoreRaw != nil {
			return d.Err("store is repeated; give it once")
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

// Interface guards
var (
	_ caddyfile.Unmarshaler = (*Handler)(nil)
	_ caddyfile.Unmarshaler = (*App)(nil)
)
