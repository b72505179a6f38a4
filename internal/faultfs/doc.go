// Package faultfs is a file system for tests whose faults a test decides. It
// passes everything through to a directory, and on request it hangs, slows down,
// fails, or lies about the free space.
//
// It exists on Linux only, where it takes root and /dev/fuse.
package faultfs
