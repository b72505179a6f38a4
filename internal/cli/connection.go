package cli

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http/httptrace"
	"os"
	"sync/atomic"
	"time"
)

// answeredConn is a connection for requests that may be answered before they have
// been sent as a whole. A server that refuses a body by its length answers, and
// may hang up while the body still comes. net/http then returns the error of
// writing, though the answer may have arrived. So once a request has begun, what
// can't be written is lost without an error: reading gets the answer or, if there
// is none, the error.
type answeredConn struct {
	net.Conn
	begun  atomic.Bool // part of the current request has been written
	closed atomic.Bool // by the other end
}

func dialAnswered(ctx context.Context, network, address string) (net.Conn, error) {
	dialer := net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}
	conn, err := dialer.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return &answeredConn{Conn: conn}, nil
}

func (c *answeredConn) Write(b []byte) (int, error) {
	if c.closed.Load() {
		return len(b), nil
	}
	n, err := c.Conn.Write(b)
	ours := errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded)
	if err != nil && !ours && c.begun.Load() {
		c.closed.Store(true)
		return len(b), nil
	}
	if n > 0 {
		c.begun.Store(true)
	}
	return n, err
}

// withBeginnings returns a context with which requests tell their connection that
// they begin. The first write of a request has an error if it fails: nothing was
// sent, so that net/http may use another connection.
func withBeginnings(ctx context.Context) context.Context {
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) {
		conn := info.Conn
		if encrypted, ok := conn.(*tls.Conn); ok {
			conn = encrypted.NetConn()
		}
		if answered, ok := conn.(*answeredConn); ok {
			answered.begun.Store(false)
		}
	}})
}
