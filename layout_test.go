package instantapi

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const modulePath = "github.com/instantapi/caddy-instantapi-verify"

// room says what the files of a package may import, apart from tests. They may
// import nothing that is in no list.
type room struct {
	ours   []string // packages of this module; "." is the root
	theirs []string // modules or packages of others; anyModule is all of them
	not    []string // packages of the standard library that it may not import
}

const (
	anyModule   = "any"
	caddyModule = "github.com/caddyserver/caddy/v2"
	jsonModule  = "github.com/go-json-experiment/json"
)

// rooms has a line for every package. Nothing that ships imports the root, so
// that the module can be read and built from the leaves upwards.
var rooms = map[string]room{
	".":         {ours: []string{"internal/body", "internal/ledger", "internal/options", "internal/scan", "signature", "store"}, theirs: []string{anyModule}},
	"signature": {},
	"store":     {theirs: []string{caddyModule}},

	// A store knows nothing of the guard.
	"store/badger":    {ours: []string{"store", "internal/options"}, theirs: []string{anyModule}},
	"store/storetest": {ours: []string{"store"}, theirs: []string{caddyModule}},

	// The ledger can be understood, and tested, without a server.
	"internal/ledger": {
		ours:   []string{"store"},
		theirs: []string{"github.com/prometheus/client_golang", "go.uber.org/zap"},
		not:    []string{"net/http"},
	},
	"internal/body":    {theirs: []string{jsonModule}},
	"internal/scan":    {theirs: []string{jsonModule}},
	"internal/options": {theirs: []string{caddyModule, "github.com/dustin/go-humanize"}},

	// The commands know a running Caddy only through HTTP.
	"internal/cli":           {ours: []string{"internal/cli/diagnosis", "signature"}, theirs: []string{anyModule}},
	"internal/cli/diagnosis": {ours: []string{"signature"}, theirs: []string{jsonModule, "golang.org/x/text"}},

	// For tests.
	"internal/caddytest": {ours: []string{"signature", "store/storetest"}, theirs: []string{anyModule}},
	"internal/faultfs":   {theirs: []string{anyModule}},

	// These packages only use the module.
	"examples/caddy": {ours: []string{"."}, theirs: []string{anyModule}},
	"bench":          {ours: []string{"bench/naive", "signature"}, theirs: []string{anyModule}},
	"bench/caddy":    {ours: []string{".", "bench/naive"}, theirs: []string{anyModule}},
	"bench/naive":    {ours: []string{"signature"}, theirs: []string{anyModule}},
}

// standardFile alone imports what ships with a plain build but the guard does
// not need.
const standardFile = "standard.go"

var standardImports = []string{"internal/cli", "store/badger"}

// Each package imports only what its room allows, also in files for other
// systems.
func TestImportsKeepToTheirRooms(t *testing.T) {
	found := map[string]bool{}
	for _, file := range sourceFiles(t) {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		dir := path.Dir(file)
		found[dir] = true
		r, there := rooms[dir]
		if !there {
			t.Errorf("package %s has no line in rooms: add one that says what it may import", dir)
			continue
		}
		if file == standardFile {
			r.ours = standardImports
		}
		for _, imported := range importsOf(t, file) {
			if !r.allows(imported) {
				t.Errorf("%s imports %s, which is not for package %s", file, imported, dir)
			}
		}
	}
	for _, dir := range slices.Sorted(maps.Keys(rooms)) {
		if !found[dir] {
			t.Errorf("there is no package %s", dir)
		}
	}
}

func (r room) allows(imported string) bool {
	if ours, is := strings.CutPrefix(imported, modulePath); is {
		return slices.Contains(r.ours, path.Clean("./"+ours))
	}
	first, _, _ := strings.Cut(imported, "/")
	if !strings.Contains(first, ".") { // as only others' paths have one
		return !slices.Contains(r.not, imported)
	}
	return slices.ContainsFunc(r.theirs, func(module string) bool {
		return module == anyModule || imported == module || strings.HasPrefix(imported, module+"/")
	})
}

// Long files hide things.
func TestNoFileIsLong(t *testing.T) {
	const most = 400
	for _, file := range sourceFiles(t) {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if lines := strings.Count(string(content), "\n"); lines > most {
			t.Errorf("%s has %d lines, want %d at most", file, lines, most)
		}
	}
}

// Long tests are hard to follow.
func TestNoTestFunctionIsLong(t *testing.T) {
	const most = 80
	for _, file := range sourceFiles(t) {
		if !strings.HasSuffix(file, "_test.go") {
			continue
		}
		files := token.NewFileSet()
		parsed, err := parser.ParseFile(files, file, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range parsed.Decls {
			function, ok := decl.(*ast.FuncDecl)
			if !ok {
				continue
			}
			lines := files.Position(function.End()).Line - files.Position(function.Pos()).Line + 1
			if lines > most {
				t.Errorf("%s: %s has %d lines, want %d at most", file, function.Name.Name, lines, most)
			}
		}
	}
}

// sourceFiles returns all Go files of the repository, by their paths from here.
func sourceFiles(t *testing.T) (files []string) {
	t.Helper()
	err := fs.WalkDir(os.DirFS("."), ".", func(file string, entry fs.DirEntry, err error) error {
		hidden := file != "." && strings.HasPrefix(entry.Name(), ".")
		if entry.IsDir() && (hidden || entry.Name() == "node_modules") {
			return fs.SkipDir
		}
		if err == nil && path.Ext(file) == ".go" {
			files = append(files, file)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func importsOf(t *testing.T, file string) (paths []string) {
	t.Helper()
	parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
	if err != nil {
		t.Fatal(err)
	}
	for _, spec := range parsed.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			t.Fatal(err)
		}
		paths = append(paths, imported)
	}
	return paths
}
