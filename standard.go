package instantapi

// What a plain build ships beside the handler. This file alone names it, so that
// nothing else of the package depends on it.
import (
	_ "github.com/instantapi/caddy-instantapi-verify/internal/cli" // caddy instantapi
	_ "github.com/instantapi/caddy-instantapi-verify/store/badger" // instantapi_verify.stores.badger
)
