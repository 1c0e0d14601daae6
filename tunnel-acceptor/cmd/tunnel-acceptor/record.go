package main

import (
	"log/slog"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/proto/audit"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/tunnel-acceptor/internal/forwarding"
)

// recorder writes to the audit trail and tells the log.
type recorder struct {
	trail *audit.Writer
	log   *slog.Logger
}

// append keeps a record. Its error has been logged.
func (r *recorder) append(record audit.Record) error {
	if _, err := r.trail.Append(record); err != nil {
		r.log.Error("the audit trail cannot be written", "event", record.Event, "error", err)
		return err
	}
	attrs := []any{"event", record.Event}
	for _, a := range []struct{ key, value string }{
		{"device", record.Device}, {"remote", record.Remote}, {"tunnel_id", record.TunnelID}, {"reason", record.Reason},
	} {
		if a.value != "" {
			attrs = append(attrs, a.key, a.value)
		}
	}
	if record.Port != 0 {
		attrs = append(attrs, "port", record.Port)
	}
	r.log.Info("audit", attrs...)
	return nil
}

func (r *recorder) event(e forwarding.Event) error {
	return r.append(audit.Record{
		Event: e.Name, Device: e.Device, TunnelID: e.TunnelID, Generation: e.Generation, Port: e.Port,
		Remote: e.Remote, Fingerprint: e.Fingerprint, Reason: e.Reason, Count: e.Count,
		Bytes: int64(e.BytesIn + e.BytesOut), DurationMS: e.Duration.Milliseconds(),
	})
}
