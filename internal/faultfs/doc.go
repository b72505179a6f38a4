// Package faultfs is a file system for tests, with faults that the test sets.
// It passes everything through to a directory, and on request it hangs, slows
// down, fails, or lies about the free space.
//
// It exists only on Linux, where it needs root and /dev/fuse. On 32 bits it can't be
// mounted.
package faultfs
