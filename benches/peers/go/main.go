// The Go library uds-ipc as a peer of the side-by-side bench: the arguments, messages and printed lines of bench.c.
//
// Used as its documentation recommends: one Writer for all goroutines, a handler that keeps nothing. WriteMessage keeps
// the slice that it is given and drops it when the queue is full, so messages come from a ring that is longer than the
// queue, and the sender watches the queue's depth (GetMetrics) and waits for room: nothing is dropped.
package main

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	udsipc "github.com/Psiphon-Inc/uds-ipc"
)

const (
	latencyPeriod   = 200 * time.Microsecond
	latencyWarmUp   = 200
	idleWarmUp      = 1000
	timedBurst      = 64
	checkEvery      = 16 // how many messages a producer sends between two looks at the depth of the queue
	forever         = 1000 * time.Hour
	prSetTimerSlack = 29
)

type config struct {
	path, mode                                  string
	size, connections, threads, queue, patience int
	count                                       uint64
	timed, sum                                  bool
}

type stream struct {
	next, expected, bytes, wrong uint64
	_                            [96]byte // a cache line of its own
}

var (
	given       = config{mode: "stream", size: 100, count: 1, connections: 1, threads: 1, queue: 10000, patience: 60}
	streams     []stream
	streamsOpen atomic.Int64
	first, last atomic.Int64
	latencies   []int64
	complete    = make(chan struct{})
	usageBefore syscall.Rusage
	sumSent     uint64 // of each message, behind its tag
)

func fail(format string, arguments ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", arguments...)
	os.Exit(1)
}

func check(err error) {
	if err != nil {
		fail("%v", err)
	}
}

// now is CLOCK_MONOTONIC, the clock of the other process too; time.Now has a zero point of its own.
func now() int64 {
	var ts syscall.Timespec
	_, _, errno := syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, 1, uintptr(unsafe.Pointer(&ts)), 0)
	if errno != 0 {
		fail("clock_gettime: %v", errno)
	}
	return ts.Nano()
}

func newMessage() []byte {
	message := make([]byte, given.size)
	for i := range message {
		message[i] = byte(i)
	}
	return message
}

func sumOf(data []byte) (sum uint64) {
	for ; len(data) >= 8; data = data[8:] {
		sum += binary.NativeEndian.Uint64(data)
	}
	for _, one := range data {
		sum += uint64(one)
	}
	return sum
}

func isAsSent(data []byte) bool {
	if given.sum {
		return sumOf(data[8:]) == sumSent
	}
	return data[len(data)-1] == byte(len(data)-1)
}

func received(data []byte) error {
	tag := binary.NativeEndian.Uint64(data)
	s := &streams[tag>>40]
	if s.next == 0 {
		first.CompareAndSwap(0, now())
	}
	if tag&(1<<40-1) != s.next || given.mode == "stream" && !isAsSent(data) {
		s.wrong++
	}
	if latencies != nil && s.next < given.count {
		latencies[s.next] = now() - int64(binary.NativeEndian.Uint64(data[8:]))
	}
	s.bytes += uint64(len(data))
	s.next++
	if s.next == s.expected && streamsOpen.Add(-1) == 0 {
		last.Store(now())
		close(complete)
	}
	return nil
}

func procKiB(file, field string) int {
	text, err := os.ReadFile(file)
	check(err)
	for line := range strings.Lines(string(text)) {
		if rest, found := strings.CutPrefix(line, field); found {
			kib, err := strconv.Atoi(strings.Fields(rest)[0])
			check(err)
			return kib
		}
	}
	return 0
}

func costs() string {
	var usage syscall.Rusage
	check(syscall.Getrusage(syscall.RUSAGE_SELF, &usage))
	seconds := func(after, before syscall.Timeval) float64 { return float64(after.Nano()-before.Nano()) / 1e9 }
	return fmt.Sprintf(`"user": %.6f, "system": %.6f, "switches": %d, "peak_kib": %d}`,
		seconds(usage.Utime, usageBefore.Utime), seconds(usage.Stime, usageBefore.Stime),
		usage.Nvcsw+usage.Nivcsw-usageBefore.Nvcsw-usageBefore.Nivcsw, procKiB("/proc/self/status", "VmHWM:"))
}

func result() (line string, good bool) {
	var sum stream
	for i := range streams {
		sum.next += streams[i].next
		sum.expected += streams[i].expected
		sum.bytes += streams[i].bytes
		sum.wrong += streams[i].wrong
	}
	good = sum.next == sum.expected && sum.bytes == sum.expected*uint64(given.size) && sum.wrong == 0
	seconds := 0.0
	if good {
		seconds = float64(last.Load()-first.Load()) / 1e9
	}
	line = fmt.Sprintf(`{"complete": %t, "received": %d, "expected": %d, "bytes": %d, "out_of_order": %d, "seconds": %.9f, `,
		good, sum.next, sum.expected, sum.bytes, sum.wrong, seconds)
	if good && latencies != nil {
		sample := latencies[latencyWarmUp:]
		slices.Sort(sample)
		line += fmt.Sprintf(`"p50": %d, "p99": %d, "p999": %d, `,
			sample[len(sample)/2], sample[len(sample)*99/100], sample[len(sample)*999/1000])
	}
	return line, good
}

func listen() {
	reader, err := udsipc.NewReader(received, given.path, udsipc.WithInactivityTimeout(forever))
	check(err)
	check(reader.Start())
}

func receive() {
	count := max(given.threads, given.connections)
	streams = make([]stream, count)
	for i := range streams {
		streams[i].expected = given.count
		if given.mode == "idle" {
			streams[i].expected = 1
		}
	}
	if given.mode == "idle" {
		streams[0].expected = idleWarmUp
	}
	streamsOpen.Store(int64(count))
	if given.mode == "latency" {
		latencies = make([]int64, given.count)
	}
	sumSent = sumOf(newMessage()[8:])
	listen()
	check(syscall.Getrusage(syscall.RUSAGE_SELF, &usageBefore))
	fmt.Println("ready")
	growth := ""
	if given.mode == "idle" {
		growth = weigh()
	}
	select {
	case <-complete:
	case <-time.After(time.Duration(given.patience) * time.Second):
	}
	line, good := result()
	fmt.Println(line + growth + costs())
	if !good {
		os.Exit(1)
	}
	os.Exit(0)
}

// weigh says how much memory the connections take, since the first one, which has warmed everything up. Garbage is
// collected before each look: what can be freed is not the price of a connection.
func weigh() string {
	private := func() int {
		runtime.GC()
		return procKiB("/proc/self/smaps_rollup", "Private_Dirty:")
	}
	for atomic.LoadUint64(&streams[0].next) < idleWarmUp {
		time.Sleep(time.Millisecond)
	}
	time.Sleep(200 * time.Millisecond)
	before := private()
	fmt.Println("warm")
	<-complete
	time.Sleep(500 * time.Millisecond)
	return fmt.Sprintf(`"growth_kib": %d, `, private()-before)
}

type sender struct {
	writer *udsipc.Writer
	ring   [][]byte
	at     int
}

// connect gives each producer a ring of messages of its own on the writer.
func connect(writer *udsipc.Writer, queue int) *sender {
	s := &sender{writer: writer, ring: make([][]byte, queue+checkEvery+8)}
	for i := range s.ring {
		s.ring[i] = newMessage()
	}
	return s
}

func newWriter() *udsipc.Writer {
	// Room for what all producers may add between two looks at the depth.
	room := uint32(given.queue + checkEvery*given.threads)
	writer, err := udsipc.NewWriter(given.path, udsipc.WithMaxBufferedWrites(room))
	check(err)
	writer.Start()
	return writer
}

// waitForRoom returns when the queue may take checkEvery more, and says whether it had to wait.
func (s *sender) waitForRoom() bool {
	waited := false
	for {
		_, _, _, depth := s.writer.GetMetrics()
		if depth < given.queue {
			return waited
		}
		waited = true
		runtime.Gosched()
	}
}

func (s *sender) message(stream int, sequence uint64) []byte {
	message := s.ring[s.at]
	if s.at++; s.at == len(s.ring) {
		s.at = 0
	}
	binary.NativeEndian.PutUint64(message, uint64(stream)<<40|sequence)
	return message
}

func (s *sender) produce(stream int, begin, end uint64) bool {
	waited := false
	for i := begin; i < end; i++ {
		if i%checkEvery == 0 || i == begin {
			waited = s.waitForRoom() || waited
		}
		s.writer.WriteMessage(s.message(stream, i))
	}
	return waited
}

func produceTimed(s *sender) string {
	var bursts []int64
	sum := int64(0)
	for i := uint64(0); i < given.count; i += timedBurst {
		end := min(i+timedBurst, given.count)
		begin := now()
		waited := s.produce(0, i, end)
		if took := now() - begin; !waited && end-i == timedBurst {
			bursts = append(bursts, took)
			sum += took
		}
	}
	if len(bursts) == 0 {
		return ""
	}
	slices.Sort(bursts)
	return fmt.Sprintf(`"enqueue_ns": %.2f, "enqueue_mean_ns": %.2f, "enqueue_bursts": %d, `,
		float64(bursts[len(bursts)/2])/timedBurst, float64(sum)/float64(len(bursts))/timedBurst, len(bursts))
}

func produceRound(senders []*sender) {
	burst := uint64(max(64<<10/given.size, 1))
	for sent := uint64(0); sent < given.count; sent += burst {
		for i, s := range senders {
			s.produce(i, sent, min(sent+burst, given.count))
		}
	}
}

func produceSlowly(s *sender) {
	// The sleeps of the runtime are no more exact than 1 ms when idle; the other peers sleep with clock_nanosleep.
	runtime.LockOSThread()
	syscall.RawSyscall(syscall.SYS_PRCTL, prSetTimerSlack, 1, 0)
	next := now()
	for i := range given.count {
		next += int64(latencyPeriod)
		ts := syscall.NsecToTimespec(next)
		syscall.Syscall6(syscall.SYS_CLOCK_NANOSLEEP, 1, 1, uintptr(unsafe.Pointer(&ts)), 0, 0, 0)
		message := s.message(0, i)
		binary.NativeEndian.PutUint64(message[8:], uint64(now()))
		s.writer.WriteMessage(message)
	}
}

func send() {
	senders := make([]*sender, max(given.connections, given.threads))
	var shared *udsipc.Writer
	for i := range senders {
		if i == 0 || given.threads == 1 {
			shared = newWriter()
		}
		senders[i] = connect(shared, given.queue)
	}
	time.Sleep(100 * time.Millisecond) // as its README does: there is no call that tells whether it is connected
	check(syscall.Getrusage(syscall.RUSAGE_SELF, &usageBefore))
	begin := now()
	enqueue := ""
	switch {
	case given.mode == "latency":
		produceSlowly(senders[0])
	case given.connections > 1:
		produceRound(senders)
	case given.timed:
		enqueue = produceTimed(senders[0])
	default:
		var all sync.WaitGroup
		for i := range given.threads {
			all.Add(1)
			go func() {
				defer all.Done()
				senders[i].produce(i, 0, given.count)
			}()
		}
		all.Wait()
	}
	end := now()
	bufio.NewReader(os.Stdin).ReadString('\n')
	if _, dropped, failed, _ := shared.GetMetrics(); dropped+failed > 0 {
		fail("%d messages dropped, %d failed", dropped, failed)
	}
	fmt.Printf("{\"sending\": %.9f, %s%s\n", float64(end-begin)/1e9, enqueue, costs())
}

func rest() {
	streams = make([]stream, 1)
	listen()
	newWriter()
	time.Sleep(300 * time.Millisecond)
	fmt.Printf("{\"rss_kib\": %d, \"private_kib\": %d, %s\n", procKiB("/proc/self/status", "VmRSS:"),
		procKiB("/proc/self/smaps_rollup", "Private_Dirty:"), costs())
}

func parse(argument string) {
	key, value, found := strings.Cut(argument, "=")
	if !found {
		fail("not KEY=VALUE: %s", argument)
	}
	number := func() int {
		n, err := strconv.Atoi(value)
		check(err)
		return n
	}
	switch key {
	case "path":
		given.path = value
	case "mode":
		given.mode = value
	case "size":
		given.size = number()
	case "count":
		given.count = uint64(number())
	case "connections":
		given.connections = number()
	case "threads":
		given.threads = number()
	case "queue":
		given.queue = number()
	case "patience":
		given.patience = number()
	case "timed":
		given.timed = number() != 0
	case "sum":
		given.sum = number() != 0
	case "queue_bytes", "chunk":
		// for peers that have such a thing
	default:
		fail("unknown argument %s", argument)
	}
}

func main() {
	if len(os.Args) < 2 {
		fail("usage: %s recv|send|rest KEY=VALUE ...", os.Args[0])
	}
	for _, argument := range os.Args[2:] {
		parse(argument)
	}
	switch os.Args[1] {
	case "recv":
		receive()
	case "send":
		send()
	case "rest":
		rest()
	default:
		fail("usage: %s recv|send|rest KEY=VALUE ...", os.Args[0])
	}
}
