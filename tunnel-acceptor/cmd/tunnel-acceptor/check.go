package main

import (
	"context"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/proto/program"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/tunnel-acceptor/internal/devicekey"
)

type checkCmd struct{ keyFlags }

// Run prints what each key may do, or all that is wrong with the file.
func (c *checkCmd) Run(_ context.Context, streams program.Streams) error {
	set, err := c.load(program.Log{}.New(streams.Err))
	if err != nil {
		return err
	}
	tw := tabwriter.NewWriter(streams.Out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(tw, "LINE\tDEVICE\tPORTS\tFROM\tEXPIRES\tKEY")
	for _, e := range set.Entries() {
		device := e.Device
		if e.CertAuthority {
			device = "certified: " + strings.Join(e.Principals, ",")
		}
		_, _ = fmt.Fprintf(tw, "%d\t%s\t%s\t%s\t%s\t%s %s\n", e.Line, device, ports(e), or(e.From, "anywhere"), expiry(e), e.KeyType, e.Fingerprint)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	_, err = fmt.Fprintf(streams.Out, "%s: %d keys, no problem\n", c.path().Value, len(set.Entries()))
	return err
}

func ports(e devicekey.Entry) string {
	words := make([]string, 0, len(e.Ports))
	for _, port := range e.Ports {
		words = append(words, fmt.Sprint(port))
	}
	return strings.Join(words, ",")
}

func expiry(e devicekey.Entry) string {
	switch {
	case e.Expires.IsZero():
		return "never"
	case time.Now().After(e.Expires):
		return "EXPIRED " + e.Expires.Format(time.RFC3339)
	}
	return e.Expires.Format(time.RFC3339)
}

func or(text, empty string) string {
	if text == "" {
		return empty
	}
	return text
}
