package mcptools

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/files"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/outputs"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/policy"
)

const defaultListing = 200

type fileListArgs struct {
	Device string `json:"device"`
	Path   string `json:"path"`
	Limit  int    `json:"limit"`
	Cursor string `json:"cursor"`
}

type fileEntry struct {
	Name       string `json:"name"`
	Type       string `json:"type"`
	Size       int64  `json:"size"`
	Mode       string `json:"mode"`
	MTime      string `json:"mtime"`
	LinkTarget string `json:"link_target"`
}

func (t *tools) listFiles(ctx context.Context, args fileListArgs) result {
	c := t.newFileCall(ctx, "sftp_list", args.Device, args.Path, (*policy.Policy).ReadPath)
	after, err := base64.RawURLEncoding.DecodeString(args.Cursor)
	if err != nil {
		return c.failed("transfer_denied", "denied", invalidArgument("cursor: it is none of sftp_list's"))
	}
	if args.Limit == 0 {
		args.Limit = defaultListing
	}
	return c.do(ctx, args.Path, t.fileTimeout(args.Device), func(s *files.Session, r files.Request) (fileResult, error) {
		page, err := s.List(r, string(after), args.Limit)
		if err != nil {
			return fileResult{}, err
		}
		entries := make([]fileEntry, 0, len(page.Entries))
		for _, e := range page.Entries {
			entries = append(entries, fileEntry{
				e.Name, e.Type, e.Size, octal(e.Mode), e.MTime.UTC().Format(time.RFC3339), e.Target,
			})
		}
		cursor := ""
		if page.More {
			cursor = base64.RawURLEncoding.EncodeToString([]byte(page.Entries[len(page.Entries)-1].Name))
		}
		return fileResult{value: map[string]any{"entries": entries, "next_cursor": cursor}}, nil
	})
}

// octal is a mode as chmod takes it.
func octal(m fs.FileMode) string {
	bits := uint32(m.Perm())
	for bit, set := range map[uint32]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if m&set != 0 {
			bits |= bit
		}
	}
	return fmt.Sprintf("%04o", bits)
}

type fileReadArgs struct {
	Device   string `json:"device"`
	Path     string `json:"path"`
	Offset   int64  `json:"offset"`
	MaxBytes int    `json:"max_bytes"`
	Encoding string `json:"encoding"`
}

type fileReadResult struct {
	outputResult
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

func (t *tools) readFile(ctx context.Context, args fileReadArgs) result {
	c := t.newFileCall(ctx, "sftp_read", args.Device, args.Path, (*policy.Policy).ReadPath)
	most := t.cfg.Limits(args.Device).MaxOutputBytes
	if args.MaxBytes == 0 {
		args.MaxBytes = defaultOutputBytes
		if most > 0 {
			args.MaxBytes = min(args.MaxBytes, int(most))
		}
	}
	if most > 0 && int64(args.MaxBytes) > most {
		return c.failed("transfer_denied", "denied", *limitExceeded(fmt.Sprintf("max_bytes may be at most %d on this device", most)))
	}
	return c.do(ctx, args.Path, t.fileTimeout(args.Device), func(s *files.Session, r files.Request) (fileResult, error) {
		part, err := s.Read(r, args.Offset, args.MaxBytes)
		if err != nil {
			return fileResult{}, err
		}
		out := outputs.Part{Content: part.Content, Offset: part.Offset, NextOffset: part.NextOffset, EOF: part.EOF}
		content, encoding := "", "base64"
		if args.Encoding == "base64" {
			content = base64.StdEncoding.EncodeToString(out.Content)
		} else {
			out = out.WholeRunes()
			content, encoding = encoded(out.Content)
		}
		sum := sha256.Sum256(out.Content)
		return fileResult{
			value: fileReadResult{outputResult{content, encoding, out.Offset, out.NextOffset, out.EOF}, part.Size, part.SHA256},
			bytes: int64(len(out.Content)), sha256: hex.EncodeToString(sum[:]),
		}, nil
	})
}

type fileWriteArgs struct {
	Device         string `json:"device"`
	Path           string `json:"path"`
	Content        string `json:"content"`
	Encoding       string `json:"encoding"`
	Mode           string `json:"mode"`
	CreateOnly     bool   `json:"create_only"`
	ExpectedSHA256 string `json:"expected_sha256"`
}

// copied is what is told of a file that was written.
type copied struct {
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
}

func (t *tools) writeFile(ctx context.Context, args fileWriteArgs) result {
	c := t.newFileCall(ctx, "sftp_write", args.Device, args.Path, (*policy.Policy).WritePath)
	w := files.Write{Content: []byte(args.Content), CreateOnly: args.CreateOnly, ExpectedSHA256: strings.ToLower(args.ExpectedSHA256)}
	if args.Encoding == "base64" {
		content, err := base64.StdEncoding.DecodeString(args.Content)
		if err != nil {
			return c.failed("transfer_denied", "denied", invalidArgument("content is no base64: "+err.Error()))
		}
		w.Content = content
	}
	if args.CreateOnly && args.ExpectedSHA256 != "" {
		return c.failed("transfer_denied", "denied", invalidArgument("create_only and expected_sha256 exclude each other"))
	}
	if args.Mode != "" {
		bits, err := strconv.ParseUint(args.Mode, 8, 12)
		if err != nil {
			return c.failed("transfer_denied", "denied", invalidArgument("mode: "+err.Error()))
		}
		mode := fs.FileMode(bits)
		w.Mode = &mode
	}
	sum := sha256.Sum256(w.Content)
	c.record.Bytes, c.record.SHA256 = int64(len(w.Content)), hex.EncodeToString(sum[:]) // on record before it is written
	return c.do(ctx, args.Path, t.fileTimeout(args.Device), func(s *files.Session, r files.Request) (fileResult, error) {
		sum, err := s.Write(r, w)
		bytes := int64(len(w.Content))
		return fileResult{copied{bytes, sum}, bytes, sum}, err
	})
}

type fileCopyArgs struct {
	Device     string `json:"device"`
	RemotePath string `json:"remote_path"`
	LocalPath  string `json:"local_path"`
	Overwrite  bool   `json:"overwrite"`
}

// progressed is how far a transfer is.
type progressed struct{ done, total atomic.Int64 }

func (t *tools) uploadFile(ctx context.Context, args fileCopyArgs) result {
	return t.copyFile(ctx, "sftp_upload", args, (*policy.Policy).WritePath, (*files.Session).Upload)
}

func (t *tools) downloadFile(ctx context.Context, args fileCopyArgs) result {
	return t.copyFile(ctx, "sftp_download", args, (*policy.Policy).ReadPath, (*files.Session).Download)
}

func (t *tools) copyFile(ctx context.Context, tool string, args fileCopyArgs, ask pathJudge, run func(*files.Session, files.Transfer) (files.Transferred, error)) result {
	c := t.newFileCall(ctx, tool, args.Device, args.RemotePath, ask)
	c.record.LocalPath = clip(args.LocalPath)
	return c.do(ctx, args.RemotePath, maxTransfer, func(s *files.Session, r files.Request) (fileResult, error) {
		moved := new(progressed)
		stop := t.report(ctx, moved)
		defer stop()
		seen, err := run(s, files.Transfer{
			Request: r, Device: args.Device, Dir: t.cfg.Transfers, Local: args.LocalPath, Overwrite: args.Overwrite, Stall: stallTransfer,
			Moved: func(done, total int64) {
				moved.done.Store(done)
				moved.total.Store(total)
			},
		})
		return fileResult{copied{seen.Bytes, seen.SHA256}, seen.Bytes, seen.SHA256}, err
	})
}
