package tunnelapi

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/tunnel-acceptor/internal/registry"
)

// A stream that idles holds a small buffer; one that fills it gets a large one
// from the pool, which gathers many SSH packets into one write.
const (
	smallBuffer = 4 << 10
	largeBuffer = 256 << 10
)

var largeBuffers = sync.Pool{New: func() any { return new([largeBuffer]byte) }}

// halfCloseLinger is how long the device may be silent once the client has
// ended its direction. A unix socket does not tell a peer that is gone from
// one that only finished sending.
const halfCloseLinger = 2 * time.Minute

// halfCloser is a connection whose directions end one by one: *net.UnixConn
// and *net.TCPConn.
type halfCloser interface {
	io.ReadWriteCloser
	CloseWrite() error
}

// splice carries bytes between client and stream until both directions have
// ended, passing each end on as a half-close, or until ctx ends. early is what client had sent
// already. It returns the bytes from and to the device.
func splice(ctx context.Context, client halfCloser, early []byte, stream registry.Stream) (in, out int64) {
	closeBoth := sync.OnceFunc(func() {
		_ = client.Close()
		_ = stream.Close()
	})
	defer closeBoth()
	stopped := context.AfterFunc(ctx, closeBoth)
	defer stopped()
	var clientEnded atomic.Bool
	linger := time.AfterFunc(halfCloseLinger, func() {
		if clientEnded.Load() {
			closeBoth()
		}
	})
	defer linger.Stop()
	var toDevice sync.WaitGroup
	toDevice.Go(func() {
		n, err := stream.Write(early)
		out = int64(n)
		if err == nil {
			var copied int64
			copied, err = copyTo(stream, client, func() {})
			out += copied
		}
		if err != nil || stream.CloseWrite() != nil {
			closeBoth()
		}
		clientEnded.Store(true)
		linger.Reset(halfCloseLinger)
	})
	in, err := copyTo(client, stream, func() {
		if clientEnded.Load() {
			linger.Reset(halfCloseLinger)
		}
	})
	if err != nil || client.CloseWrite() != nil {
		closeBoth()
	}
	toDevice.Wait()
	return in, out
}

// copyTo copies src to dst until src ends, calling progress after each write.
func copyTo(dst io.Writer, src io.Reader, progress func()) (copied int64, err error) {
	small := make([]byte, smallBuffer)
	buf := small
	var large *[largeBuffer]byte
	defer func() {
		if large != nil {
			largeBuffers.Put(large)
		}
	}()
	for {
		n, readErr := src.Read(buf)
		if n > 0 {
			written, err := dst.Write(buf[:n])
			copied += int64(written)
			if err != nil {
				return copied, err
			}
			progress()
		}
		if errors.Is(readErr, io.EOF) {
			return copied, nil
		}
		if readErr != nil {
			return copied, readErr
		}
		switch {
		case large == nil && n == len(small):
			large, _ = largeBuffers.Get().(*[largeBuffer]byte)
			buf = large[:]
		case large != nil && n < len(small):
			largeBuffers.Put(large)
			large, buf = nil, small
		}
	}
}
