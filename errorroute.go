package instantapi

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptrace"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// leaveToErrorRoutes lets error routes handle a failed request: it runs them, or
// returns the error for the server or a handler in front to do so.
func (x *exchange) leaveToErrorRoutes(err error) error {
	if x.body == nil || err == nil && x.outcome != outcomeUpstreamFailed {
		return err
	}
	x.leaveBody()
	if err == nil || x.hasServersRequest() || !hasErrorRoute(x.request, err) {
		return err
	}
	x.runErrorRoutes(err)
	return nil
}

// leaveBody lets the body be read again from its beginning, as often as needed.
func (x *exchange) leaveBody() {
	x.bodyNeeded = true
	x.setBody(x.body.Outgoing()) // the proxy may still be reading the old one
	ctx, cancel := context.WithCancel(x.request.Context())
	*x.request = *x.request.WithContext(httptrace.WithClientTrace(ctx, x.outgoing.Trace(cancel)))
}

// hasErrorRoute reports whether the request's site has an error route for an
// error. Error routes belong to the server, each with its site's matcher in
// front. A request that is in an error route already is not given to another.
func hasErrorRoute(r *http.Request, err error) bool {
	server, ok := r.Context().Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if !ok || server.Errors == nil || r.Context().Value(caddyhttp.ErrorCtxKey) != nil {
		return false
	}
	r = server.Errors.WithError(r, err) // the matcher may ask for the status
	for _, route := range server.Errors.Routes {
		if matches, err := route.MatcherSets.AnyMatchWithError(r); err == nil && matches {
			return true
		}
	}
	return false
}

// hasServersRequest reports whether this is the request that the server gives
// to its error routes. A handler in front, such as tracing, may have copied it:
// then the server's request still has the body that the guard has read to its
// end, and an error route would find it empty.
//
// Caddy hands out no pointer to the server's request, and a copy shares its URL,
// header, body and context values. But the placeholders read from the server's
// request. So the method is another one for a moment: if the placeholder follows,
// both are the same request.
func (x *exchange) hasServersRequest() bool {
	placeholders, ok := x.request.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if !ok {
		return true
	}
	const inNoRequest = "not a method" // a method has no spaces
	method := x.request.Method
	x.request.Method = inNoRequest
	seen, _ := placeholders.GetString("http.request.method")
	x.request.Method = method
	return seen == inNoRequest
}

// runErrorRoutes does with the guard's request what the server would do with
// its own. It also answers if the error routes fail, so that no error is left
// for the server.
func (x *exchange) runErrorRoutes(err error) {
	r := x.request
	server := r.Context().Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if original, ok := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request); ok {
		r.Method, r.RemoteAddr, r.RequestURI = original.Method, original.RemoteAddr, original.RequestURI
		*r.URL = *original.URL
	}
	unanswered := caddyhttp.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
		w.WriteHeader(statusOf(err))
		return nil
	})
	routes := server.Errors.Routes.Compile(unanswered)
	if err := routes.ServeHTTP(x.writer, server.Errors.WithError(r, err)); err != nil {
		x.writer.WriteHeader(statusOf(err))
	}
}

// statusOf returns the status that a handler's error asks for.
func statusOf(err error) int {
	if handlerErr, ok := errors.AsType[caddyhttp.HandlerError](err); ok && handlerErr.StatusCode != 0 {
		return handlerErr.StatusCode
	}
	return http.StatusInternalServerError
}
