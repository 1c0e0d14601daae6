package approvals

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// Ask enters a request. What the same requester has already asked of an
// operator is returned as it is, whatever its state: repeating a call neither
// fills the operator's list nor asks again after a no.
func (s *Store) Ask(via Via, r Request) (Approval, error) {
	now := time.Now()
	e := &entry{Approval: Approval{ID: newID(), Request: r, Via: via, State: asking, Asked: now, Expires: now.Add(s.patience(via))}}
	fillNonce(e)

	s.mu.Lock()
	if known := s.sameLocked(via, r, now); known != nil {
		a := known.shown()
		s.mu.Unlock()
		return a, nil
	}
	evicted, err := s.makeRoomLocked(r.Requester)
	if _, taken := s.open[e.ID]; taken {
		err = ErrTooMany // 1 in 10^10
	}
	if err == nil {
		s.open[e.ID] = e
	}
	s.mu.Unlock()
	if evicted != nil {
		s.expired(*evicted, "the client that asked has left, and others need the place")
	}
	if err != nil {
		return Approval{}, err
	}

	err = s.record("approval_requested", e.Approval, "")
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		delete(s.open, e.ID)
		return Approval{}, err
	}
	e.State = Pending
	select {
	case s.changed <- struct{}{}:
	default: // Run looks anyway
	}
	return e.Approval, nil
}

func (s *Store) patience(via Via) time.Duration {
	if via == ViaClient {
		return min(s.cfg.TTL, MaxQuestion)
	}
	return s.cfg.TTL
}

func (s *Store) sameLocked(via Via, r Request, now time.Time) *entry {
	if via != ViaOperator {
		return nil
	}
	for _, e := range s.open {
		if e.Via == via && e.Act == r.Act && e.Expires.After(now) && e.mayUse(r.Requester) {
			return e
		}
	}
	return nil
}

// makeRoomLocked keeps to the bounds. When all places are taken, the oldest
// request of a client that has left gives way.
func (s *Store) makeRoomLocked(by Requester) (evicted *Approval, err error) {
	mine := 0
	var oldest *entry
	for _, e := range s.open {
		if e.mayUse(by) {
			mine++
		}
		if e.ended && (e.State == Pending || e.State == Denied) && (oldest == nil || e.Asked.Before(oldest.Asked)) {
			oldest = e
		}
	}
	switch {
	case mine >= maxOpenRequester:
		return nil, fmt.Errorf("%w: %d of this client, the most allowed", ErrTooMany, mine)
	case len(s.open) < maxOpen:
		return nil, nil
	case oldest == nil:
		return nil, fmt.Errorf("%w: %d of all clients, the most allowed", ErrTooMany, len(s.open))
	}
	delete(s.open, oldest.ID)
	return &oldest.Approval, nil
}

// Decide grants or denies what waits, and may take back what was granted and
// not used. by says who decides, for the trail; reason is for the agent. A
// client's answer that is no is forgotten at once.
func (s *Store) Decide(id string, via Via, yes bool, by, reason string) (Approval, error) {
	s.mu.Lock()
	e, err := s.findLocked(id)
	switch {
	case err == nil && e.Via != via:
		err = ErrUnknown
	case err == nil && e.State != Pending && (e.State != Granted || yes):
		err = ErrDecided
	}
	if err != nil {
		s.mu.Unlock()
		return Approval{}, err
	}
	before := e.State
	e.State = deciding
	a := e.Approval
	s.mu.Unlock()

	a.DecidedBy, a.Reason, a.State = by, reason, Denied
	event := "approval_denied"
	if yes {
		a.State, event = Granted, "approval_granted"
	}
	err = s.record(event, a, reason)

	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		e.State = before
		return Approval{}, err
	}
	a.Expires = time.Now().Add(s.cfg.TTL)
	e.Approval = a
	if !yes && via == ViaClient {
		delete(s.open, e.ID)
	}
	return a, nil
}

// Withdraw forgets a question that nobody waits for any more, or a yes that
// nobody will use; it does nothing if that is gone already.
func (s *Store) Withdraw(id, why string) {
	s.mu.Lock()
	e, err := s.findLocked(id)
	if err != nil || e.State != Pending && e.State != Granted {
		s.mu.Unlock()
		return
	}
	delete(s.open, e.ID)
	a := e.Approval
	s.mu.Unlock()
	s.expired(a, why)
}

// Find returns the approval that r means by id, in whatever state it is.
func (s *Store) Find(id string, r Request) (Approval, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, err := s.usableLocked(id, r)
	if err != nil {
		return Approval{}, err
	}
	return e.shown(), nil
}

// Redeem uses up a granted approval: what it is for must happen now.
func (s *Store) Redeem(id string, r Request) error {
	s.mu.Lock()
	e, err := s.usableLocked(id, r)
	if err == nil && e.State != Granted {
		err = ErrUnknown
	}
	if err != nil {
		s.mu.Unlock()
		return err
	}
	delete(s.open, e.ID) // first, so that nobody else can use it meanwhile
	a := e.Approval
	s.mu.Unlock()

	a.Requester = r.Requester
	if err := s.record("approval_redeemed", a, ""); err != nil {
		s.mu.Lock()
		s.open[e.ID] = e
		s.mu.Unlock()
		return err
	}
	return nil
}

// Waiting returns what waits for an operator, oldest first.
func (s *Store) Waiting() []Approval {
	s.mu.Lock()
	defer s.mu.Unlock()
	waiting := []Approval{}
	for _, e := range s.open {
		if e.Via == ViaOperator && e.State == Pending && e.Expires.After(time.Now()) {
			waiting = append(waiting, e.Approval)
		}
	}
	slices.SortFunc(waiting, func(a, b Approval) int { return cmp.Or(a.Asked.Compare(b.Asked), cmp.Compare(a.ID, b.ID)) })
	return waiting
}

func (s *Store) findLocked(id string) (*entry, error) {
	e := s.open[normal(id)]
	if e == nil || e.State == asking || !e.Expires.After(time.Now()) {
		return nil, ErrUnknown
	}
	return e, nil
}

func (s *Store) usableLocked(id string, r Request) (*entry, error) {
	e, err := s.findLocked(id)
	switch {
	case err != nil:
		return nil, err
	case !e.mayUse(r.Requester):
		return nil, ErrRequester
	case e.Act != r.Act:
		return nil, ErrOther
	}
	return e, nil
}

// shown is the approval as others may see it.
func (e *entry) shown() Approval {
	a := e.Approval
	if a.State == asking || a.State == deciding {
		a.State = Pending
	}
	return a
}
