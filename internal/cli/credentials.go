package cli

import (
	"fmt"
	"os"

	"github.com/instantapi/caddy-instantapi-verify/internal/cli/diagnosis"
	"github.com/spf13/cobra"
)

const secretUsage = "the webhook `secret`"

// credentialFlags are a flag for a credential and one for the environment
// variable that holds it. Their errors don't repeat a value: somebody may have
// mixed the two up.
type credentialFlags struct {
	name              string // of the first flag; the other one has -env at its end
	values, variables []string
}

func (c *credentialFlags) register(cmd *cobra.Command, name, usage string) {
	c.name = name
	cmd.Flags().StringArrayVar(&c.values, name, nil,
		usage+"; other users of the machine can see it in the list of processes, so use --"+name+"-env for a real one")
	cmd.Flags().StringArrayVar(&c.variables, name+"-env", nil, "the `name` of an environment variable that holds the "+name)
}

// all returns what was given, none of it empty.
func (c *credentialFlags) all() ([]diagnosis.Secret, error) {
	var all []diagnosis.Secret
	for i, value := range c.values {
		if value == "" {
			return nil, fmt.Errorf("--%s is empty; is the variable set that it is taken from?", c.name)
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
			return nil, fmt.Errorf("--%s-env: this environment variable is unset or empty; give the name of one, without a $, and export it", c.name)
		}
		all = append(all, diagnosis.Secret{Name: "the " + c.name + " in " + variable, Value: value})
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("give --%[1]s-env or --%[1]s", c.name)
	}
	return all, nil
}

// one returns what was given where there can be only one, or else the default, if
// there is one.
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
