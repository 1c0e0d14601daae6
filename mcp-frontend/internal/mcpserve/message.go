package mcpserve

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/mark3labs/mcp-go/mcp"
)

const (
	// codeBusy is in JSON-RPC's range for the implementation's own errors.
	codeBusy = -32000
	// maxIDBytes bounds ids and progress tokens: they are kept, echoed and audited.
	maxIDBytes = 1024

	methodCancelled = "notifications/cancelled"
	textInternal    = "internal error: the request failed inside the server; its log says why"
)

// A message is what this package needs to know of a line. Params are not kept:
// mcp-go decodes them from the line itself.
type message struct {
	ID     json.RawMessage `json:"id"`
	Method string          `json:"method"`
	Params struct {
		Meta struct {
			ProgressToken json.RawMessage `json:"progressToken"`
		} `json:"_meta"`
		RequestID json.RawMessage `json:"requestId"` // of notifications/cancelled
	} `json:"params"`
	Result json.RawMessage `json:"result"`
	Error  json.RawMessage `json:"error"`
}

type kind int

const (
	isNothing kind = iota // a blank line, or a fault
	isRequest
	isNotification
	isResponse
)

func (m *message) kind() kind {
	switch {
	case m.Method == "" && (m.Result != nil || m.Error != nil):
		return isResponse
	case m.Method == "":
		return isNothing
	case m.ID == nil:
		return isNotification
	default:
		return isRequest
	}
}

// A fault is a JSON-RPC error about a message.
type fault struct {
	code int
	text string
}

// parse reads a line's envelope. With a fault, the message's ID is the one to
// answer: nil when it is unknown or not an id.
func parse(line []byte) (message, *fault) {
	var m message
	if len(bytes.TrimSpace(line)) == 0 {
		return m, nil
	}
	err := json.Unmarshal(line, &m)
	var wrongType *json.UnmarshalTypeError
	switch {
	case errors.As(err, &wrongType):
	case err != nil:
		return message{}, &fault{mcp.PARSE_ERROR, "the line is not valid JSON: send one JSON-RPC message per line"}
	}
	if m.kind() == isResponse {
		return m, nil // whatever its id: an answer is never answered
	}
	badID := m.ID != nil && !usableID(m.ID)
	if badID {
		m.ID = nil
	}
	switch {
	case bytes.TrimSpace(line)[0] == '[':
		return m, &fault{mcp.INVALID_REQUEST, "batches are not supported: send each message on a line of its own"}
	case wrongType != nil && wrongType.Field == "":
		return m, &fault{mcp.INVALID_REQUEST, "a message must be a JSON object"}
	case wrongType != nil:
		return m, &fault{mcp.INVALID_REQUEST, fmt.Sprintf("%s must not be of type %s", clip(wrongType.Field), clip(wrongType.Value))}
	case badID:
		return m, &fault{mcp.INVALID_REQUEST, fmt.Sprintf("id must be a string or a number of at most %d bytes", maxIDBytes)}
	case m.Method == "":
		return m, &fault{mcp.INVALID_REQUEST, "the message has no method"}
	case m.Result != nil || m.Error != nil:
		return m, &fault{mcp.INVALID_REQUEST, "a message with a method must not have a result or an error"}
	}
	return m, nil
}

// usableID reports whether raw, which is valid JSON, is a string or a number of
// reasonable length.
func usableID(raw json.RawMessage) bool {
	if len(raw) == 0 || len(raw) > maxIDBytes {
		return false
	}
	first := raw[0]
	return first == '"' || first == '-' || '0' <= first && first <= '9'
}

// responseLine encodes mcp-go's response to the request id. The id is put in as
// it was sent: mcp-go has passed it through a float64.
func responseLine(id json.RawMessage, response mcp.JSONRPCMessage) ([]byte, error) {
	var body any
	var field string
	switch r := response.(type) {
	case mcp.JSONRPCResponse:
		field, body = `,"result":`, r.Result
	case mcp.JSONRPCError:
		field, body = `,"error":`, r.Error
	default:
		return nil, fmt.Errorf("mcp-go answered with a %T", response)
	}
	var buf bytes.Buffer
	buf.WriteString(`{"jsonrpc":"2.0","id":`)
	buf.Write(id)
	buf.WriteString(field)
	if err := json.NewEncoder(&buf).Encode(body); err != nil {
		return nil, fmt.Errorf("encoding the response: %w", err)
	}
	buf.Truncate(buf.Len() - 1) // the encoder's newline
	buf.WriteString("}\n")
	return buf.Bytes(), nil
}

// errorLine encodes an error of our own. A nil id is sent as null.
func errorLine(id json.RawMessage, code int, text string) []byte {
	if id == nil {
		id = json.RawMessage("null")
	}
	line := append([]byte(`{"jsonrpc":"2.0","id":`), id...)
	line = append(line, `,"error":{"code":`...)
	line = strconv.AppendInt(line, int64(code), 10)
	line = append(line, `,"message":`...)
	line = appendString(line, text)
	return append(line, "}}\n"...)
}

// appendString appends s as a JSON string; invalid UTF-8 becomes U+FFFD.
func appendString(line []byte, s string) []byte {
	quoted, err := json.Marshal(s)
	if err != nil { // a string always marshals
		return append(line, `""`...)
	}
	return append(line, quoted...)
}

// clip shortens text that the peer controls.
func clip(s string) string {
	const most = 128
	if len(s) > most {
		return strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}
