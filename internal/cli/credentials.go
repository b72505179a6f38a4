package cli

import (
	"fmt"
	"os"

	"github.com/instantapi/caddy-instantapi-verify/internal/cli/diagnosis"
	"github.com/spf13/cobra"
)

const secretUsage = "the webhook `secret`"

// credentialFlags are a flag for a credential and one for the environment
// variable that holds it. Their errors do not repeat a value, because somebody may
// have given the credential where the variable's name belongs.
type credentialFlags struct {
	name              string // of the first flag; the second one is this and "-env"
	values, variables []string
}

func (c *credentialFlags) register(cmd *cobra.Command, name, usage string) {
	c.name = name
	cmd.Flags().StringArrayVar(&c.values, name, nil,
		usage+"; other users of this machine can see it in the list of processes, so give a real one with --"+name+"-env")
	cmd.Flags().StringArrayVar(&c.variables, name+"-env", nil, "the `name` of an environment variable that holds the "+name)
}

// all returns the credentials that were given. None of them is empty, and there
// is at least one.
func (c *credentialFlags) all() ([]diagnosis.Secret, error) {
	var all []diagnosis.Secret
	for i, value := range c.values {
		if value == "" {
			return nil, fmt.Errorf("--%s is empty; if it comes from a variable, is that set?", c.name)
		}
		name := "the " + c.name
		if len(c.values)+len(c.variables) > 1 {
			name = fmt.Sprintf("--%s number %d", c.name, i+1)
		}
		all = append(all, diagnosis.Secret{Name: name, Value: value})
	}
	for _, variable := range c.variables {
		value := os.Getenv(variable)
		if value == "" {
			return nil, fmt.Errorf("--%s-env: this environment variable is unset or empty; give its name without a $, and export it", c.name)
		}
		all = append(all, diagnosis.Secret{Name: "the " + c.name + " in " + variable, Value: value})
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("give --%[1]s-env or --%[1]s", c.name)
	}
	return all, nil
}

// one returns the only credential that was given. If there is none, it returns
// byDefault, which may be empty for no default.
func (c *credentialFlags) one(byDefault string) (string, error) {
	if byDefault != "" && len(c.values)+len(c.variables) == 0 {
		return byDefault, nil
	}
	all, err := c.all()
	if err != nil {
		return "", err
	}
	if len(all) > 1 {
		return "", fmt.Errorf("give one --%[1]s-env or --%[1]s, not several", c.name)
	}
	return all[0].Value, nil
}
