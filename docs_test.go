package instantapi_test

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
)

// documents returns the paths of what there is to read in this repository.
func documents(t *testing.T) (paths []string) {
	t.Helper()
	err := filepath.WalkDir(".", func(path string, entry fs.DirEntry, err error) error {
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
	return regexp.MustCompile("(?ms)^```.*?^```$").ReplaceAllString(string(readFile(t, path)), "")
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

func TestReadmeIsShort(t *testing.T) {
	if size := len(readFile(t, "README.md")); size > 10_000 {
		t.Errorf("README.md has %d bytes, want 10000 at most: the rest belongs in docs", size)
	}
}

// sources returns the text of all Go files for which keep says so.
func sources(t *testing.T, keep func(path string) bool) string {
	t.Helper()
	var text strings.Builder
	err := filepath.WalkDir(".", func(path string, _ fs.DirEntry, err error) error {
		if err == nil && filepath.Ext(path) == ".go" && keep(path) {
			text.Write(readFile(t, path))
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
	named := regexp.MustCompile("`(Test[A-Za-z]+)`").FindAllStringSubmatch(prose(t, "docs/promises.md"), -1)
	if len(named) < 20 {
		t.Errorf("docs/promises.md names %d tests", len(named))
	}
	for _, test := range named {
		if !strings.Contains(tests, "func "+test[1]+"(t *testing.T)") {
			t.Errorf("docs/promises.md names %s, which does not exist", test[1])
		}
	}
}

// TestReadmeHasEveryOption compares the README's grammars with those that the
// documentation of the code has, and its tables with both.
func TestReadmeHasEveryOption(t *testing.T) {
	readme := string(readFile(t, "README.md"))
	grammar := regexp.MustCompile(`(?m)^\t+([a-z_]+)\s`)
	var documented, given, tabled []string
	code := sources(t, func(path string) bool { return !isTest(path) && !strings.HasPrefix(path, "bench") })
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

// TestScopesOfTheDocs does to the configs below the heading "scope" what they
// are there for: the spellings of an endpoint are one, and tenants are several.
func TestScopesOfTheDocs(t *testing.T) {
	caddy := buildCaddy(t)
	_, section, found := strings.Cut(string(readFile(t, "docs/options.md")), "\n## `scope`\n")
	if !found {
		t.Fatal("docs/options.md has no heading for scope")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	configs := regexp.MustCompile("(?s)```caddyfile\n(.*?)```").FindAllStringSubmatch(section, -1)
	tests := []struct {
		name     string
		hosts    []string
		paths    []string // the same endpoint
		others   []string // endpoints of their own
		refusals []string
	}{
		{name: "a site without a name", hosts: []string{"a.example", "b.example"}, paths: []string{"/"}},
		{name: "several names", hosts: []string{"example.com", "www.example.com", "WWW.example.com"}, paths: []string{"/"}},
		{name: "a path with a wildcard", hosts: []string{"example.com"}, paths: []string{"/hook", "/hook.json", "/hook;a=1", "/hook%20", "//hook/", "/HOOK"}},
		{
			name: "tenants in the query", hosts: []string{"example.com"},
			paths:    []string{"/hook?tenant=acme", "/hook?tenant=acme&x=1", "/hook?tenant=%61cme"},
			others:   []string{"/hook?tenant=globex"},
			refusals: []string{"/hook", "/hook?tenant=", "/hook?tenant=Acme", "/hook?tenant=acme&tenant=globex", "/hook?tenant=invented"},
		},
	}
	if len(configs) != len(tests) {
		t.Fatalf("the section has %d configs, want %d", len(configs), len(tests))
	}
	for i, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			backend := newRecorder(t)
			url := caddy.runText(t, "Caddyfile", onPort(configs[i][1]), addresses{"localhost:3000": backend.address})
			var want []string
			send := func(host, path, answer string, status int) {
				t.Helper()
				call{name: host + path, host: host, path: path, body: event("task.completed", "1"), answer: answer, status: status}.make(t, url)
			}
			answer := "" // the first one is forwarded
			for _, host := range test.hosts {
				for _, path := range test.paths {
					send(host, path, answer, 200)
					answer = duplicate
				}
			}
			want = append(want, event("task.completed", "1"))
			for _, path := range test.others {
				send(test.hosts[0], path, "", 200)
				send(test.hosts[0], path, duplicate, 200)
				want = append(want, event("task.completed", "1"))
			}
			for _, path := range test.refusals {
				send(test.hosts[0], path, "", 404)
			}
			backend.expect(t, want...)
		})
	}
}

// onPort makes plain sites on :8080 of sites with a name, which need TLS.
func onPort(config string) []byte {
	return []byte(strings.NewReplacer(
		"www.example.com", "http://www.example.com:8080",
		"example.com", "http://example.com:8080",
	).Replace(config))
}
