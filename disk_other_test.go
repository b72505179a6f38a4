//go:build !unix

package instantapi

import "io/fs"

func allocated(info fs.FileInfo) int64 { return info.Size() }
