package mcpserve

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"

	"github.com/mark3labs/mcp-go/server"
)

// ErrProgress is returned by [Progress] for a value that is not above the last one.
var ErrProgress = errors.New("progress must be a finite number above the last one")

// newTurn returns the turn of a request that has reported nothing yet.
func newTurn() chan float64 {
	turn := make(chan float64, 1)
	turn <- math.Inf(-1)
	return turn
}

// Progress tells the client how far the request of ctx is, if it asked to know;
// else it does nothing. total 0 means unknown. It waits while the client is slow
// to read, until ctx ends, and then returns context.Cause(ctx); so it does after
// the request was cancelled or answered. Goroutines of one request may call it
// concurrently; what is not above the last value sent is refused with
// [ErrProgress].
func Progress(ctx context.Context, progress, total float64, message string) error {
	r, ok := server.ClientSessionFromContext(ctx).(*request)
	if !ok || r.token == nil {
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var last float64
	select {
	case last = <-r.turn:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { r.turn <- last }()
	if !(progress > last) || math.IsInf(progress, 0) || math.IsInf(total, 0) || math.IsNaN(total) {
		return fmt.Errorf("%w: got %v of %v after %v", ErrProgress, progress, total, last)
	}
	if err := r.out.enqueue(ctx, outgoing{line: progressLine(r.token, progress, total, message), req: r}); err != nil {
		return err
	}
	last = progress
	return nil
}

func progressLine(token []byte, progress, total float64, message string) []byte {
	line := append([]byte(`{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":`), token...)
	line = append(line, `,"progress":`...)
	line = strconv.AppendFloat(line, progress, 'f', -1, 64)
	if total != 0 {
		line = append(line, `,"total":`...)
		line = strconv.AppendFloat(line, total, 'f', -1, 64)
	}
	if message != "" {
		line = append(line, `,"message":`...)
		line = appendString(line, message)
	}
	return append(line, "}}\n"...)
}
