package badger

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/dgraph-io/badger/v4/fb"
	"github.com/dgraph-io/badger/v4/pb"
	"google.golang.org/protobuf/proto"
)

// The format of Badger's tables, see its table/builder.go: blocks, then an
// index, the length of the index, a checksum of the index, and the length of
// that. A block ends with the offsets of its entries, their number, a checksum
// of all that, and the length of the checksum. Numbers have 32 bits and are
// big-endian, checksums are Protocol Buffers, the index is a FlatBuffer.

const (
	numberSize = 4

	// checksumLimit is more bytes than an encoded checksum takes.
	checksumLimit = 64

	// readSize is how much of a table is read at once.
	readSize = 256 << 10
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// tableIndex is what the index of a table says.
type tableIndex struct {
	maxVersion uint64
	keys       uint32
	bloom      []byte
	blocks     []tableBlock
}

type tableBlock struct {
	key          []byte // the first one in it, with its version
	offset, size int64
}

// verifyTables reads tables to their ends, four at a time, and returns the highest
// version in them.
func verifyTables(ctx context.Context, path string, tables manifestTables, report *progress) (highest uint64, err error) {
	ids := make(chan uint64)
	var newest atomic.Uint64
	newest.Store(coverVersion)
	ctx, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for id := range ids {
				index, err := verifyTable(ctx, filepath.Join(path, tableName(id)), report.read)
				if err != nil {
					giveUp(err)
					continue
				}
				for old := newest.Load(); old < index.maxVersion && !newest.CompareAndSwap(old, index.maxVersion); {
					old = newest.Load()
				}
				report.verified()
			}
		})
	}
	for id := range tables {
		if ctx.Err() != nil {
			break
		}
		ids <- id
	}
	close(ids)
	wg.Wait()
	return newest.Load(), context.Cause(ctx)
}

// verifyTable reads a table to its end. After each block it calls read with the
// block's size.
func verifyTable(ctx context.Context, name string, read func(bytes int)) (*tableIndex, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	index, err := readTableIndex(file)
	if err != nil {
		return nil, err
	}
	reader := bufio.NewReaderSize(file, readSize)
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	var block []byte
	for _, b := range index.blocks {
		if err := context.Cause(ctx); err != nil {
			return nil, err
		}
		if int64(cap(block)) < b.size {
			block = make([]byte, b.size)
		}
		block = block[:b.size]
		if _, err := io.ReadFull(reader, block); err != nil {
			return nil, readError(name, err)
		}
		if err := checkBlock(block); err != nil {
			return nil, damagef("table %s: the block at byte %d: %w", filepath.Base(name), b.offset, err)
		}
		read(len(block))
	}
	return index, nil
}

// readIndex returns the index of a table.
func readIndex(name string) (*tableIndex, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return readTableIndex(file)
}

func readTableIndex(file *os.File) (*tableIndex, error) {
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	size := info.Size()
	damaged := func(what string) (*tableIndex, error) {
		return nil, damagef("table %s: %s", filepath.Base(file.Name()), what)
	}
	end := make([]byte, min(size, checksumLimit+2*numberSize))
	if _, err := file.ReadAt(end, size-int64(len(end))); err != nil {
		return nil, readError(file.Name(), err)
	}
	rest, checksum, ok := cutChecksum(end)
	if !ok || len(rest) < numberSize {
		return damaged("its end can't be read")
	}
	indexSize := int64(binary.BigEndian.Uint32(rest[len(rest)-numberSize:]))
	indexStart := size - int64(len(end)-len(rest)) - numberSize - indexSize
	if indexStart < 0 {
		return damaged("its index is longer than the table")
	}
	encoded := make([]byte, indexSize)
	if _, err := file.ReadAt(encoded, indexStart); err != nil {
		return nil, readError(file.Name(), err)
	}
	if !checksum.of(encoded) {
		return damaged("the checksum of its index is wrong")
	}
	index, err := parseIndex(encoded)
	if err != nil || index.end() != indexStart {
		return damaged("its index can't be read")
	}
	return index, nil
}

// parseIndex reads an index whose checksum is right.
func parseIndex(encoded []byte) (index *tableIndex, err error) {
	defer func() {
		if p := recover(); p != nil { // reading a FlatBuffer of garbage panics
			err = fmt.Errorf("%v", p)
		}
	}()
	root := fb.GetRootAsTableIndex(encoded, 0)
	index = &tableIndex{maxVersion: root.MaxVersion(), keys: root.KeyCount(), bloom: root.BloomFilterBytes()}
	index.blocks = make([]tableBlock, root.OffsetsLength())
	for i := range index.blocks {
		var block fb.BlockOffset
		root.Offsets(&block, i)
		index.blocks[i] = tableBlock{block.KeyBytes(), int64(block.Offset()), int64(block.Len())}
		if i > 0 && index.blocks[i].offset != index.blocks[i-1].offset+index.blocks[i-1].size {
			return nil, errors.New("its blocks do not follow one another")
		}
	}
	if len(index.blocks) == 0 || index.blocks[0].offset != 0 {
		return nil, errors.New("it has no first block")
	}
	return index, nil
}

// end returns where the last block ends.
func (index *tableIndex) end() int64 {
	last := index.blocks[len(index.blocks)-1]
	return last.offset + last.size
}

// checkBlock returns an error if the content of a block is not what was written.
func checkBlock(block []byte) error {
	content, checksum, ok := cutChecksum(block)
	if !ok {
		return errors.New("its end can't be read")
	}
	if !checksum.of(content) {
		return errors.New("its checksum is wrong")
	}
	return nil
}

// blockChecksum is a CRC-32C.
type blockChecksum uint64

func (c blockChecksum) of(content []byte) bool {
	return uint64(c) == uint64(crc32.Checksum(content, castagnoli))
}

// cutChecksum splits b into its content and the checksum that ends it.
func cutChecksum(b []byte) (content []byte, sum blockChecksum, ok bool) {
	if len(b) < numberSize {
		return nil, 0, false
	}
	b, length := b[:len(b)-numberSize], binary.BigEndian.Uint32(b[len(b)-numberSize:])
	if uint64(length) > uint64(min(len(b), checksumLimit)) {
		return nil, 0, false
	}
	content, encoded := b[:len(b)-int(length)], b[len(b)-int(length):]
	var checksum pb.Checksum
	if proto.Unmarshal(encoded, &checksum) != nil || checksum.Algo != pb.Checksum_CRC32C {
		return nil, 0, false
	}
	return content, blockChecksum(checksum.Sum), true
}

// readError returns what a failed read of a file means: a file that ends too
// early is damaged.
func readError(name string, err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return damagef("%s is cut off", filepath.Base(name))
	}
	return err
}
