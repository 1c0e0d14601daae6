package mcptools

import (
	"fmt"
	"time"
)

// Limits bound a run on a device.
type Limits struct {
	DefaultTimeout time.Duration
	MaxTimeout     time.Duration // 0 = no bound but the schema's
	MaxOutputBytes int64         // of each stream; 0 = no bound but the schema's
}

// bound settles timeout and output size.
func (r *aRun) bound(l Limits) *toolError {
	r.timeout, r.output = time.Duration(r.args.TimeoutS)*time.Second, defaultOutputBytes
	if r.args.MaxOutputBytes != nil {
		r.output = *r.args.MaxOutputBytes
	}
	if r.timeout == 0 {
		r.timeout = l.DefaultTimeout
		if l.MaxTimeout > 0 {
			r.timeout = min(r.timeout, l.MaxTimeout)
		}
	}
	if r.args.MaxOutputBytes == nil && l.MaxOutputBytes > 0 {
		r.output = min(r.output, int(l.MaxOutputBytes))
	}
	switch {
	case l.MaxTimeout > 0 && r.timeout > l.MaxTimeout:
		return limitExceeded(fmt.Sprintf("timeout_s may be at most %d on this device", int(l.MaxTimeout.Seconds())))
	case l.MaxOutputBytes > 0 && int64(r.output) > l.MaxOutputBytes:
		return limitExceeded(fmt.Sprintf("max_output_bytes may be at most %d on this device", l.MaxOutputBytes))
	}
	return nil
}

func limitExceeded(message string) *toolError {
	return &toolError{Code: "LIMIT_EXCEEDED", Message: message, Stage: "policy", Hint: "call again within the limit", FixBy: byModel}
}
