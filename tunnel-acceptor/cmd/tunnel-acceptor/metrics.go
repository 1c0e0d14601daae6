package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/proto/localsocket"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/tunnel-acceptor/internal/forwarding"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/tunnel-acceptor/internal/registry"
)

// listenMetrics listens where the flag says; nil if it says nothing. A port
// without a host is one of this machine alone: who wants more has to say so.
func listenMetrics(ctx context.Context, address string) (net.Listener, error) {
	if address == "" {
		return nil, nil //nolint:nilnil // metrics are optional
	}
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		return localsocket.Listen(ctx, path, 0o750, 0o660)
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("listening for metrics: %w", err)
	}
	if host == "" {
		host = "127.0.0.1"
	}
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", net.JoinHostPort(host, port))
	if err != nil {
		return nil, fmt.Errorf("listening for metrics: %w", err)
	}
	return ln, nil
}

// serveMetrics serves /metrics and /healthz until local ends. From the end of
// ctx on, which begins the drain, /healthz says 503.
func serveMetrics(ctx, local context.Context, ln net.Listener, metrics http.Handler) error {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", metrics)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		if ctx.Err() != nil {
			http.Error(w, "draining", http.StatusServiceUnavailable)
			return
		}
		_, _ = io.WriteString(w, "ok\n")
	})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second, MaxHeaderBytes: 8 << 10}
	stopped := context.AfterFunc(local, func() { _ = server.Close() })
	defer stopped()
	if err := server.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving metrics: %w", err)
	}
	return nil
}

// newMetrics returns the page of all that there is to count.
func newMetrics(rec *recorder, server *forwarding.Server, tunnels *registry.Registry) http.Handler {
	all := prometheus.NewRegistry()
	all.MustRegister(
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), collectors.NewBuildInfoCollector(),
		rec.events, rec.refusals, tunnelCollector{server, tunnels},
	)
	return promhttp.HandlerFor(all, promhttp.HandlerOpts{MaxRequestsInFlight: 4})
}

// tunnelCollector reads the figures that live elsewhere when it is asked.
type tunnelCollector struct {
	server  *forwarding.Server
	tunnels *registry.Registry
}

var (
	connectionsDesc = prometheus.NewDesc("tunnel_acceptor_connections", "Connections of devices, before and after their login.", []string{"stage"}, nil)
	tunnelsDesc     = prometheus.NewDesc("tunnel_acceptor_tunnels", "Reverse ports by state.", []string{"state"}, nil)
	upDesc          = prometheus.NewDesc("tunnel_acceptor_tunnel_up", "1 if the device holds the port and answers.", []string{"device", "port"}, nil)
	streamsDesc     = prometheus.NewDesc("tunnel_acceptor_tunnel_open_streams", "Streams open through the tunnel.", []string{"device", "port"}, nil)
	rttDesc         = prometheus.NewDesc("tunnel_acceptor_tunnel_rtt_seconds", "Round-trip time of the newest keepalive.", []string{"device", "port"}, nil)
	seenDesc        = prometheus.NewDesc("tunnel_acceptor_tunnel_last_seen_timestamp_seconds", "When the device was last heard.", []string{"device", "port"}, nil)
	flapsDesc       = prometheus.NewDesc("tunnel_acceptor_tunnel_losses_24h", "How often the tunnel was lost within 24 hours.", []string{"device", "port"}, nil)
)

// Describe implements prometheus.Collector.
func (c tunnelCollector) Describe(descs chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{connectionsDesc, tunnelsDesc, upDesc, streamsDesc, rttDesc, seenDesc, flapsDesc} {
		descs <- d
	}
}

// Collect implements prometheus.Collector.
func (c tunnelCollector) Collect(metrics chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		metrics <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	pending, loggedIn := c.server.Counts()
	gauge(connectionsDesc, float64(pending), "login")
	gauge(connectionsDesc, float64(loggedIn), "session")
	names := map[registry.State]string{registry.Up: "up", registry.Suspect: "suspect", registry.Draining: "draining", registry.Down: "down"}
	states := make(map[registry.State]int)
	for _, t := range c.tunnels.List().Tunnels {
		states[t.State]++
		labels := []string{t.Device, strconv.Itoa(int(t.Port))}
		up := 0.0
		if t.State == registry.Up {
			up = 1
		}
		gauge(upDesc, up, labels...)
		gauge(flapsDesc, float64(t.Flaps24h), labels...)
		if t.State == registry.Down {
			continue
		}
		gauge(streamsDesc, float64(t.Stats.OpenStreams), labels...)
		gauge(seenDesc, float64(t.Stats.LastSeen.UnixMilli())/1000, labels...)
		if t.Stats.RTT > 0 {
			gauge(rttDesc, t.Stats.RTT.Seconds(), labels...)
		}
	}
	for state, name := range names {
		gauge(tunnelsDesc, float64(states[state]), name)
	}
}
