package docs_test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/instantapi/caddy-instantapi-verify/internal/caddytest"
)

func TestMain(m *testing.M) { caddytest.Main(m, caddytest.Hooks{}) }

// root is the repository's.
const root = ".."

// documents returns the paths of this repository's documents.
func documents(t *testing.T) (paths []string) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && (entry.Name() == "node_modules" || entry.Name() == ".git") {
			return filepath.SkipDir
		}
		if filepath.Ext(path) == ".md" {
			paths = append(paths, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

// prose is a document without its blocks of code.
func prose(t *testing.T, path string) string {
	t.Helper()
	return regexp.MustCompile("(?ms)^```.*?^```$").ReplaceAllString(caddytest.ReadFile(t, path), "")
}

// anchors are the names that a page of the document has for its headings, made
// as GitHub makes them.
func anchors(t *testing.T, path string) map[string]bool {
	t.Helper()
	names := make(map[string]bool)
	for _, heading := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(prose(t, path), -1) {
		name := strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case r == '-' || r == '_' || unicode.IsLetter(r) || unicode.IsNumber(r):
				return unicode.ToLower(r)
			default:
				return -1
			}
		}, heading[1])
		unique := name
		for i := 1; names[unique]; i++ {
			unique = fmt.Sprintf("%s-%d", name, i)
		}
		names[unique] = true
	}
	return names
}

func TestLinksOfTheDocsResolve(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)\s]+)\)`)
	links := 0
	for _, path := range documents(t) {
		for _, match := range link.FindAllStringSubmatch(prose(t, path), -1) {
			if strings.Contains(match[1], "://") {
				continue
			}
			links++
			file, anchor, _ := strings.Cut(match[1], "#")
			target := path
			if file != "" {
				target = filepath.Join(filepath.Dir(path), filepath.FromSlash(file))
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s: link to %s: %v", path, match[1], err)
				continue
			}
			if anchor != "" && !anchors(t, target)[anchor] {
				t.Errorf("%s: link to %s: there is no such heading", path, match[1])
			}
		}
	}
	if links < 50 {
		t.Errorf("found %d links", links)
	}
}

// caddyfiles returns the whole Caddyfiles in a text.
func caddyfiles(text string) (configs []string) {
	for _, block := range regexp.MustCompile("(?s)```caddyfile\n(.*?)```").FindAllStringSubmatch(text, -1) {
		configs = append(configs, block[1])
	}
	return configs
}

func TestCaddyTakesTheDocsCaddyfiles(t *testing.T) {
	found := 0
	for _, document := range documents(t) {
		for _, config := range caddyfiles(caddytest.ReadFile(t, document)) {
			found++
			path := filepath.Join(t.TempDir(), "Caddyfile")
			caddytest.WriteFile(t, path, config)
			caddytest.CheckConfig(t, path, "INSTANTAPI_WEBHOOK_SECRET=s")
		}
	}
	if found < 5 {
		t.Errorf("found %d Caddyfiles", found)
	}
}

func TestReadmeIsShort(t *testing.T) {
	if size := len(caddytest.ReadFile(t, root+"/README.md")); size > 10_000 {
		t.Errorf("README.md has %d bytes, want 10000 at most: the rest belongs in docs", size)
	}
}

// sources returns the text of all Go files for which keep says so.
func sources(t *testing.T, keep func(path string) bool) string {
	t.Helper()
	var text strings.Builder
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err == nil && filepath.Ext(path) == ".go" && keep(path) {
			text.WriteString(caddytest.ReadFile(t, path))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return text.String()
}

func isTest(path string) bool { return strings.HasSuffix(path, "_test.go") }

func TestDocsNameTestsThatExist(t *testing.T) {
	tests := sources(t, isTest)
	named := regexp.MustCompile("`(Test[A-Za-z]+)`").FindAllStringSubmatch(prose(t, "promises.md"), -1)
	if len(named) < 20 {
		t.Errorf("docs/promises.md names %d tests", len(named))
	}
	for _, test := range named {
		if !strings.Contains(tests, "func "+test[1]+"(t *testing.T)") {
			t.Errorf("docs/promises.md names %s, which does not exist", test[1])
		}
	}
}

// TestTroubleshootingQuotesWhatIsSaid checks that each message in the first
// column, which readers may search for, is one that the program has.
func TestTroubleshootingQuotesWhatIsSaid(t *testing.T) {
	code := sources(t, func(path string) bool { return !isTest(path) })
	symptoms := regexp.MustCompile(`(?m)^\| ([^|]+) \|`).FindAllStringSubmatch(prose(t, "troubleshooting.md"), -1)
	quoted := 0
	for _, symptom := range symptoms {
		for _, quote := range regexp.MustCompile("`([^`]+ [^`]+)`").FindAllStringSubmatch(symptom[1], -1) {
			quoted++
			if !strings.Contains(code, quote[1]) {
				t.Errorf("nothing says %q", quote[1])
			}
		}
	}
	if quoted < 5 {
		t.Errorf("the page quotes %d messages", quoted)
	}
}

// TestReadmeHasEveryOption compares the README's grammars with those that the
// documentation of the code has, and its tables with both.
func TestReadmeHasEveryOption(t *testing.T) {
	readme := caddytest.ReadFile(t, root+"/README.md")
	grammar := regexp.MustCompile(`(?m)^\t+([a-z_]+)\s`)
	var documented, given, tabled []string
	code := sources(t, func(path string) bool { return !isTest(path) && !strings.HasPrefix(path, filepath.Join(root, "bench")) })
	for _, option := range regexp.MustCompile(`(?m)^//\t\t+([a-z_]+)( .*)?$`).FindAllStringSubmatch(code, -1) {
		documented = append(documented, option[1])
	}
	for _, block := range regexp.MustCompile("(?s)## Options\n(.*?)\n## ").FindAllString(readme, 1) {
		for _, option := range grammar.FindAllStringSubmatch(block, -1) {
			given = append(given, option[1])
		}
		for _, option := range regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\|").FindAllStringSubmatch(block, -1) {
			tabled = append(tabled, option[1])
		}
	}
	frame := []string{"instantapi_verify", "store"} // what options stand in
	for _, list := range []*[]string{&documented, &given, &tabled} {
		*list = slices.DeleteFunc(*list, func(option string) bool { return slices.Contains(frame, option) })
		slices.Sort(*list)
	}
	if len(documented) < 14 || !slices.Equal(given, documented) || !slices.Equal(tabled, documented) {
		t.Errorf("options in the code: %q\nin the README's grammar: %q\nin its tables: %q", documented, given, tabled)
	}
}
