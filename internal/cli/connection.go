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

// answeredConn is a connection that still yields the answer when writing fails. A
// server that refuses a body by its length answers first and may then close the
// connection, while the body is still being sent. net/http returns the write error
// in that case, even if the answer has arrived. So once part of a request has been
// written, further writes never fail: reading returns the answer or, without one,
// the error.
type answeredConn struct {
	net.Conn
	begun  atomic.Bool // part of the current request has been written
	closed atomic.Bool // by the server
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

// withBeginnings returns a context with which a request tells its connection that
// it begins. The first write of a request may fail: nothing has been sent by then,
// so net/http can use another connection.
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
