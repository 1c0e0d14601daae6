package main

import (
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/proto/audit"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/tunnel-acceptor/internal/forwarding"
)

// recorder writes to the audit trail and tells the log.
type recorder struct {
	trail    *audit.Writer
	log      *slog.Logger
	events   *prometheus.CounterVec // by event
	refusals *prometheus.CounterVec // of logins, by reason
}

func newRecorder(trail *audit.Writer, log *slog.Logger) *recorder {
	return &recorder{
		trail: trail, log: log,
		events: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tunnel_acceptor_events_total", Help: "Records of the audit trail, by event.",
		}, []string{"event"}),
		refusals: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tunnel_acceptor_login_refusals_total", Help: "Connections that did not log in, by reason, counted once a minute.",
		}, []string{"reason"}),
	}
}

// append keeps a record. Its error has been logged.
func (r *recorder) append(record audit.Record) error {
	if _, err := r.trail.Append(record); err != nil {
		r.log.Error("the audit trail cannot be written", "event", record.Event, "error", err)
		return err
	}
	r.events.WithLabelValues(record.Event).Inc()
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
	if worthALook[record.Event] {
		r.log.Warn("audit", attrs...)
	} else {
		r.log.Info("audit", attrs...)
	}
	return nil
}

// worthALook are the events that an operator should see among all others.
var worthALook = map[string]bool{
	"identity_conflict": true, "takeover": true, "forward_denied": true, "dial_denied": true, "dial_failed": true,
	"reload_refused": true, "keepalive_lost": true, "session_revoked": true, "socket_peer_denied": true,
}

func (r *recorder) event(e forwarding.Event) error {
	if e.Name == "login_refused" {
		reason := e.Reason
		if e.Device != "" {
			reason = "the key may not be used" // its words name addresses and times
		}
		r.refusals.WithLabelValues(reason).Add(float64(e.Count))
	}
	return r.append(audit.Record{
		Event: e.Name, Device: e.Device, TunnelID: e.TunnelID, Generation: e.Generation, Port: e.Port,
		Remote: e.Remote, Fingerprint: e.Fingerprint, Reason: e.Reason, Count: e.Count,
		Bytes:      int64(e.BytesIn + e.BytesOut),
		DurationMS: e.Duration.Milliseconds(),
	})
}
