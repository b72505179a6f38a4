package instantapi

import (
	"fmt"
	"strings"

	"github.com/caddyserver/caddy/v2"
)

// resolveSecrets replaces the placeholders. Its errors name a secret by its
// position, and a placeholder only where it is all there is: in "{env.A}x" or
// "{x}" the rest may be the secret itself.
func resolveSecrets(secrets []string) ([]string, error) {
	repl := caddy.NewReplacer()
	var resolved []string
	for i, secret := range secrets {
		value, err := repl.ReplaceOrErr(secret, true, true)
		if err == nil {
			resolved = append(resolved, value)
			continue
		}
		name := "a placeholder in it"
		inner := strings.TrimSuffix(strings.TrimPrefix(secret, "{"), "}")
		source, _, _ := strings.Cut(inner, ".")
		if (source == "env" || source == "file") && secret == "{"+inner+"}" && !strings.ContainsAny(inner, "{}") {
			name = secret
		}
		return nil, fmt.Errorf("secret %d: %s is unset, empty, unreadable or unknown (a literal brace in a secret is written \\{)", i+1, name)
	}
	return resolved, nil
}
