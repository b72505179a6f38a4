package main

import (
	"embed"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// peerFiles configure nginx and Redis.
//
//go:embed peer
var peerFiles embed.FS

// startPeer starts nginx and Redis.
func (b *bench) startPeer(srv *server, _ []string) error {
	modules, err := nginxModules()
	if err != nil {
		return err
	}
	account, err := user.Current()
	if err != nil {
		return err
	}
	primary, err := user.LookupGroupId(account.Gid)
	if err != nil {
		return err
	}
	workers := len(b.serverCores)
	if workers == 0 {
		workers = runtime.NumCPU()
	}
	values := strings.NewReplacer(
		"{modules}", modules,
		"{user}", account.Username+" "+primary.Name, // otherwise root's nginx has no access to its directory
		"{workers}", strconv.Itoa(workers),
		"{dir}", srv.dir,
		"{addr}", srv.addr,
		"{backend}", b.backend.addr,
		"{idle}", strconv.Itoa(idleUpstream),
		"{secret}", secret)
	for _, name := range []string{"nginx.conf", "redis.conf", "guard.lua"} {
		text, err := peerFiles.ReadFile("peer/" + name)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(srv.dir, name), []byte(values.Replace(string(text))), 0o600); err != nil {
			return err
		}
	}
	if err := srv.start(exec.Command("redis-server", filepath.Join(srv.dir, "redis.conf")), b.serverCores); err != nil {
		return fmt.Errorf("starting Redis: %w", err)
	}
	if err := srv.waitForRedis(); err != nil {
		return err
	}
	nginx := exec.Command("nginx", "-p", srv.dir, "-e", "stderr", "-c", filepath.Join(srv.dir, "nginx.conf"))
	if err := srv.start(nginx, b.serverCores); err != nil {
		return fmt.Errorf("starting nginx: %w", err)
	}
	const redisAndMaster = 2
	return srv.waitForProcesses(redisAndMaster + workers)
}

// waitForProcesses waits until the server has this many processes. nginx
// listens before it has started its workers.
func (s *server) waitForProcesses(want int) error {
	for deadline := time.Now().Add(startTimeout); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if !s.running() {
			return errors.New("nginx ended")
		}
		pids, err := s.pids()
		if err != nil {
			return err
		}
		if len(pids) == want {
			return nil
		}
	}
	return fmt.Errorf("nginx did not start its workers within %s", startTimeout)
}

// waitForRedis waits until Redis takes commands.
func (s *server) waitForRedis() error {
	for deadline := time.Now().Add(startTimeout); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if !s.running() {
			return errors.New("the Redis server ended")
		}
		if conn, err := net.Dial("unix", filepath.Join(s.dir, "redis")); err == nil {
			conn.Close()
			return nil
		}
	}
	return errors.New("the Redis server does not listen")
}

// nginxModules returns the configuration lines that load the Lua module. An
// nginx with the module built in, like OpenResty's, needs none.
func nginxModules() (lines string, err error) {
	about, err := exec.Command("nginx", "-V").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("asking nginx for its version: %w", err)
	}
	dir := regexp.MustCompile(`--modules-path=(\S+)`).FindSubmatch(about)
	if dir == nil {
		return "", nil
	}
	for _, name := range []string{"ndk_http_module.so", "ngx_http_lua_module.so"} {
		file := filepath.Join(string(dir[1]), name)
		if _, err := os.Stat(file); err == nil {
			lines += "load_module " + file + ";\n"
		}
	}
	return lines, nil
}
