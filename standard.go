package instantapi

// These packages ship with a plain build beside the handler. No other file
// imports them, so that the rest of the package does not depend on them.
import (
	_ "github.com/instantapi/caddy-instantapi-verify/internal/cli" // caddy instantapi
	_ "github.com/instantapi/caddy-instantapi-verify/store/badger" // instantapi_verify.stores.badger
)
