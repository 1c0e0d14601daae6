// Package operator is the operator's socket: the only way by which somebody who
// is no MCP client decides what waits for a human.
//
// The protocol is one JSON line each way, then the connection is closed. The
// package promises that a line, the time for it and the connections at once are
// bounded. It assumes that the listener lets only the operator in (see
// localsocket.Only): whoever may connect may decide.
package operator

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/approvals"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/proto/localsocket"
)

const (
	maxRequest = 4 << 10
	maxAnswer  = 4 << 20 // more than all approvals that can be open, with their commands
	maxReason  = 500     // bytes; the agent reads it
	maxConns   = 8
	patience   = 5 * time.Second
)

// What a request may ask for.
const (
	doList    = "list"
	doApprove = "approve"
	doDeny    = "deny"
)

type request struct {
	Do     string `json:"do"`
	ID     string `json:"id,omitempty"`
	Reason string `json:"reason,omitempty"`
}

type answer struct {
	Approvals []approvals.Approval `json:"approvals"`
	Error     string               `json:"error,omitempty"`
}

// Server answers on the operator's socket.
type Server struct {
	Approvals *approvals.Store
	Log       *slog.Logger
}

// Serve accepts connections until ctx ends, closes ln, and returns when all of
// them have been answered: nil when ctx ended, else why accepting failed.
func (s Server) Serve(ctx context.Context, ln net.Listener) error {
	defer context.AfterFunc(ctx, func() { _ = ln.Close() })()
	defer func() { _ = ln.Close() }()
	var conns sync.WaitGroup
	defer conns.Wait()
	places := make(chan struct{}, maxConns)
	for {
		select { // further ones wait in the kernel's queue
		case places <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		conn, err := ln.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				_ = conn.Close()
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("accepting the operator: %w", err)
		case err != nil: // out of file descriptors, most likely
			s.Log.Warn("accepting the operator failed", "error", err)
			<-places
			select {
			case <-time.After(time.Second):
			case <-ctx.Done():
			}
			continue
		}
		conns.Go(func() {
			defer func() { <-places }()
			defer func() { _ = conn.Close() }()
			s.serve(conn)
		})
	}
}

func (s Server) serve(conn net.Conn) {
	defer func() {
		if p := recover(); p != nil {
			s.Log.Error("panic while answering the operator", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
		}
	}()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return
	}
	line, err := bufio.NewReader(io.LimitReader(conn, maxRequest)).ReadBytes('\n')
	if err != nil {
		return // too long, too slow, or gone: there is nobody to tell
	}
	if err := json.NewEncoder(conn).Encode(s.answer(conn, line)); err != nil {
		s.Log.Warn("the operator's client left before the answer", "error", err)
	}
}

func (s Server) answer(conn net.Conn, line []byte) answer {
	var r request
	if err := json.Unmarshal(line, &r); err != nil {
		return answer{Error: "the request is no JSON: " + err.Error()}
	}
	uid, err := localsocket.PeerUID(conn)
	if err != nil {
		return answer{Error: err.Error()}
	}
	switch r.Do {
	case doList:
		return answer{Approvals: s.Approvals.Waiting()}
	case doApprove, doDeny:
		if len(r.Reason) > maxReason {
			return answer{Error: fmt.Sprintf("the reason has %d bytes, at most %d are taken", len(r.Reason), maxReason)}
		}
		a, err := s.Approvals.Decide(r.ID, approvals.ViaOperator, r.Do == doApprove, fmt.Sprintf("operator uid %d", uid), r.Reason)
		if err != nil {
			return answer{Error: strings.ReplaceAll(err.Error(), "\n", ": ")}
		}
		return answer{Approvals: []approvals.Approval{a}}
	}
	return answer{Error: fmt.Sprintf("unknown request %q", r.Do)}
}
