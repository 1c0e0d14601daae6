package mcpserve

import (
	"crypto/rand"
	"sync/atomic"

	"github.com/mark3labs/mcp-go/mcp"
	"github.com/mark3labs/mcp-go/server"
)

// Peer is who is at the other end of a connection, as the operating system says.
type Peer struct {
	UID    uint32
	HasUID bool // false on stdio
}

// A session is one connection as mcp-go sees it between requests: the target of
// notifications that belong to no request.
type session struct {
	id        string // unguessable
	peer      Peer
	questions *questions
	out       *writer

	// notes is filled by mcp-go, which drops what does not fit. The writer
	// empties it before each response.
	notes       chan mcp.JSONRPCNotification
	initialized atomic.Bool
	logLevel    atomic.Value           // mcp.LoggingLevel, of notifications/message
	client      atomic.Pointer[client] // who initialize introduced
}

// client is what a client says about itself: unverified.
type client struct {
	info         mcp.Implementation
	capabilities mcp.ClientCapabilities
	version      string // of the protocol, by initialize
}

var (
	_ server.ClientSession      = (*session)(nil)
	_ server.SessionWithLogging = (*session)(nil)
)

func newSession(peer Peer, maxQuestions int) *session {
	s := &session{
		id:        rand.Text(),
		peer:      peer,
		questions: newQuestions(maxQuestions),
		notes:     make(chan mcp.JSONRPCNotification, 256),
	}
	s.client.Store(&client{})
	s.logLevel.Store(mcp.LoggingLevelError) // as mcp-go's own sessions begin
	return s
}

// greet remembers who a successful initialize introduced.
func (s *session) greet(c client) { s.client.Store(&c) }

func (s *session) greeted() client { return *s.client.Load() }

// SessionID implements [server.ClientSession].
func (s *session) SessionID() string { return s.id }

// NotificationChannel implements [server.ClientSession].
func (s *session) NotificationChannel() chan<- mcp.JSONRPCNotification { return s.notes }

// Initialize implements [server.ClientSession].
func (s *session) Initialize() { s.initialized.Store(true) }

// Initialized implements [server.ClientSession].
func (s *session) Initialized() bool { return s.initialized.Load() }

// SetLogLevel implements [server.SessionWithLogging].
func (s *session) SetLogLevel(level mcp.LoggingLevel) { s.logLevel.Store(level) }

// GetLogLevel implements [server.SessionWithLogging].
func (s *session) GetLogLevel() mcp.LoggingLevel {
	level, _ := s.logLevel.Load().(mcp.LoggingLevel)
	return level
}
