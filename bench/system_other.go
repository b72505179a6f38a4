//go:build !linux

package main

import (
	"errors"
	"os/exec"
	"time"

	psutil "github.com/shirou/gopsutil/v4/process"
)

func processCPU(pid int) (time.Duration, error) {
	p, err := psutil.NewProcess(int32(pid))
	if err != nil {
		return 0, err
	}
	times, err := p.Times()
	if err != nil {
		return 0, err
	}
	return time.Duration((times.User + times.System) * float64(time.Second)), nil
}

func preciseSleep(d time.Duration) { time.Sleep(d) }

const canPin = false

func startOn(_ []int, cmd *exec.Cmd) error { return cmd.Start() }

func pinSelf([]int) error { return errors.New("--pin works on Linux only") }
