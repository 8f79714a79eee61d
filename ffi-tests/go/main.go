// Peer speaks the wire format of libudsipc (uvarint length, payload) with Go's standard library alone: its varint
// code, its vectored writes, its deadlines and its network poller.
//
// It is NOT the library github.com/Psiphon-Inc/uds-ipc and shares no code with it: what it shows is how libudsipc gets on
// with the Go runtime, not with that library.
//
//	peer write -path P [-count N] [-shape S] [-period D] [-seed N]   until N are sent, or its standard input ends
//	peer read  -path P [-count N] [-shape S] [-log FILE] ...         until its standard input ends
//
// Each prints one line of JSON at its end.
package main

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

var (
	path    = flag.String("path", "", "socket path")
	count   = flag.Uint64("count", 0, "messages; 0 is without end")
	shape   = flag.String("shape", "numbered:64", "numbered:LENGTH, random, boundary or empty:N")
	seed    = flag.Uint64("seed", 1, "of the random messages")
	period  = flag.Duration("period", 0, "pause after each message")
	limit   = flag.Uint64("limit", 10<<20, "largest message that is read")
	idle    = flag.Duration("idle", 10*time.Second, "silence after which a connection is closed")
	delay   = flag.Duration("delay", 0, "time spent with each message that is read")
	logFile = flag.String("log", "", "where the numbers of the messages go that were read")
	timeout = flag.Duration("timeout", time.Second, "of a write")
)

func main() {
	command := "help"
	if len(os.Args) > 1 {
		command = os.Args[1]
		flag.CommandLine.Parse(os.Args[2:])
	}
	ended := make(chan struct{})
	go func() {
		io.Copy(io.Discard, os.Stdin)
		close(ended)
	}()

	var result any
	switch command {
	case "write":
		result = write(ended)
	case "read":
		result = read(ended)
	default:
		fmt.Fprintln(os.Stderr, "usage: peer write|read -path PATH ...")
		os.Exit(2)
	}
	json.NewEncoder(os.Stdout).Encode(result)
}

// boundary holds the lengths at which the prefix grows, and their neighbours.
var boundary = []uint64{
	1, 2, 126, 127, 128, 129, 16382, 16383, 16384, 16385, 2097150, 2097151, 2097152, 2097153, 10<<20 - 1, 10 << 20,
}

// mix is splitmix64. The harness has the same.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

func noise(index, length uint64) []byte {
	state := mix(*seed ^ mix(index))
	message := make([]byte, length+8)
	for at := uint64(0); at < length; at += 8 {
		state = state*6364136223846793005 + 1442695040888963407
		binary.LittleEndian.PutUint64(message[at:], state^state>>29)
	}
	return message[:length]
}

func argument() uint64 {
	_, text, _ := strings.Cut(*shape, ":")
	number, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		panic(fmt.Sprintf("-shape %s: %v", *shape, err))
	}
	return number
}

// message is the one at index, nil when there are no more. It may be empty.
func message(index uint64) []byte {
	switch {
	case *shape == "boundary":
		if index == uint64(len(boundary)) {
			return nil
		}
		return noise(index, boundary[index])
	case *shape == "random":
		return noise(index, mix(*seed+index)%3001)
	case strings.HasPrefix(*shape, "empty:"): // that many empty ones, and one that is not
		if empty := argument(); index < empty {
			return []byte{}
		} else if index > empty {
			return nil
		}
		return []byte("behind the empty ones")
	default:
		numbered := make([]byte, argument())
		binary.LittleEndian.PutUint64(numbered, index)
		return numbered
	}
}

type written struct {
	Sent        uint64 `json:"sent"`
	Failed      uint64 `json:"failed"`
	Connections uint64 `json:"connections"`
}

// write sends each message whole on one connection; one that fails is sent again, from its first byte, on the next, for
// ever and without a pause.
func write(ended <-chan struct{}) written {
	var result written
	var connection net.Conn
	over := func(wait time.Duration) bool {
		if wait == 0 {
			select {
			case <-ended:
				return true
			default:
				return false
			}
		}
		select {
		case <-ended:
			return true
		case <-time.After(wait):
			return false
		}
	}
	for index := uint64(0); *count == 0 || index < *count; index++ {
		payload := message(index)
		if payload == nil {
			break
		}
		for {
			if over(0) {
				return result
			}
			if connection == nil {
				dialled, err := net.DialTimeout("unix", *path, time.Second)
				if err != nil {
					over(5 * time.Millisecond)
					continue
				}
				connection = dialled
				result.Connections++
			}
			connection.SetWriteDeadline(time.Now().Add(*timeout))
			prefix := binary.AppendUvarint(nil, uint64(len(payload)))
			frame := net.Buffers{prefix, payload}
			if _, err := frame.WriteTo(connection); err == nil {
				break
			}
			result.Failed++
			connection.Close()
			connection = nil
		}
		result.Sent++
		if *period > 0 && over(*period) {
			break
		}
	}
	if connection != nil {
		connection.Close()
	}
	return result
}

type reader struct {
	lock        sync.Mutex
	Received    uint64 `json:"received"`
	Connections uint64 `json:"connections"`
	Errors      uint64 `json:"errors"`
	Wrong       string `json:"wrong"`
	next        uint64
	log         *os.File
	open        map[net.Conn]bool
	stopping    bool
}

// read takes connections until its standard input ends. Then it closes them as they are: what the kernel or its own
// buffer still holds is thrown away, as by any program that just closes.
func read(ended <-chan struct{}) *reader {
	result := &reader{open: map[net.Conn]bool{}}
	if *logFile != "" {
		file, err := os.OpenFile(*logFile, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
		check(err)
		result.log = file
	}
	os.Remove(*path)
	listener, err := net.Listen("unix", *path)
	check(err)
	fmt.Println("ready")
	var connections sync.WaitGroup
	go func() {
		<-ended
		listener.Close()
		result.stop()
	}()
	for {
		connection, err := listener.Accept()
		if err != nil {
			break
		}
		if !result.opened(connection) {
			connection.Close()
			continue
		}
		connections.Add(1)
		go func() {
			defer connections.Done()
			result.serve(connection)
		}()
	}
	connections.Wait()
	return result
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func (r *reader) opened(connection net.Conn) bool {
	r.lock.Lock()
	defer r.lock.Unlock()
	r.Connections++
	r.open[connection] = true
	return !r.stopping
}

func (r *reader) stop() {
	r.lock.Lock()
	defer r.lock.Unlock()
	r.stopping = true
	for connection := range r.open {
		connection.SetReadDeadline(time.Unix(1, 0))
	}
}

// until sets the deadline of the next frame. False when the reader stops.
func (r *reader) until(connection net.Conn) bool {
	r.lock.Lock()
	defer r.lock.Unlock()
	connection.SetReadDeadline(time.Now().Add(*idle))
	return !r.stopping
}

func (r *reader) serve(connection net.Conn) {
	defer func() {
		connection.Close()
		r.lock.Lock()
		delete(r.open, connection)
		r.lock.Unlock()
	}()
	stream := bufio.NewReaderSize(connection, 4096)
	for r.until(connection) {
		length, err := binary.ReadUvarint(stream)
		if errors.Is(err, io.EOF) || errors.Is(err, os.ErrDeadlineExceeded) {
			return
		}
		if err != nil || length > *limit {
			r.failed()
			return
		}
		payload := make([]byte, length)
		if _, err := io.ReadFull(stream, payload); err != nil {
			r.failed()
			return
		}
		if length > 0 {
			r.handle(payload)
		}
	}
}

func (r *reader) failed() {
	r.lock.Lock()
	r.Errors++
	r.lock.Unlock()
}

func (r *reader) handle(payload []byte) {
	time.Sleep(*delay)
	r.lock.Lock()
	defer r.lock.Unlock()
	if r.log != nil {
		// Written before the message counts as handled, and kept by the system when the process is killed.
		_, err := r.log.Write(payload[:8])
		check(err)
	} else if r.Wrong == "" {
		r.compare(payload)
	}
	r.Received++
}

// compare holds what arrived against what the harness sent: whole, once, in order.
func (r *reader) compare(payload []byte) {
	expected := message(r.next)
	for expected != nil && len(expected) == 0 { // never arrives
		r.next++
		expected = message(r.next)
	}
	if string(expected) != string(payload) {
		r.Wrong = fmt.Sprintf("message %d: %d bytes that are not the %d expected", r.next, len(payload), len(expected))
	}
	r.next++
}
