import io.aeron.Aeron;
import io.aeron.ExclusivePublication;
import io.aeron.FragmentAssembler;
import io.aeron.Publication;
import io.aeron.Subscription;
import io.aeron.driver.MediaDriver;
import io.aeron.driver.ThreadingMode;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.Locale;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.locks.LockSupport;
import org.agrona.BitUtil;
import org.agrona.DirectBuffer;
import org.agrona.concurrent.AgentInvoker;
import org.agrona.concurrent.UnsafeBuffer;

/**
 * Aeron IPC as a peer of the side-by-side bench: the arguments, messages and printed lines of bench.c, for one stream.
 *
 * <p>Used for speed, as its documentation recommends: an exclusive publication, both sides spinning, no checks of bounds,
 * messages up to the longest MTU in one piece. The receiver's thread does the work of the media driver too, between two polls:
 * a third thread that spins would take a processor from one of the sides. Half a term may be under way; run.py finds the length
 * that is best: three of a short one fit into the cache, and with a long one a side goes on while the other has no processor.
 */
public final class AeronPeer {
    private static final int STREAM_ID = 1;
    private static final int LONGEST_MTU = 65504;
    private static final int MESSAGES_PER_TERM = 8; // at least
    private static final int FRAGMENTS = 256; // at most, in one poll
    private static final long LATENCY_PERIOD_NS = 200_000;
    private static final int LATENCY_WARM_UP = 200;

    /** Before the messages that count, others are sent as a stream of their own: the JVM compiles what has run for a while. */
    private static final long WARM_UP_NS = 1_000_000_000;
    private static final long WARM_UP_STREAM = 1;
    private static final int STREAM_SHIFT = 40;

    private static String path;
    private static boolean latency;
    private static boolean sum;
    private static int size = 100;
    private static long count = 1;
    private static long term = 64 << 20; // Aeron's default
    private static long patience = 60; // seconds

    private static long next;
    private static long bytes;
    private static long wrong;
    private static long first;
    private static volatile long last;
    private static long[] latencies;
    private static long sumSent; // of each message, behind its tag
    private static double[] usageBefore = {0, 0};

    private static RuntimeException failed(final String text) {
        System.err.println(text);
        Runtime.getRuntime().halt(1);
        return new IllegalStateException(text);
    }

    private static long sumOf(final DirectBuffer data, final int begin, final int end) {
        long sum = 0;
        int i = begin;
        for (; i + Long.BYTES <= end; i += Long.BYTES) {
            sum += data.getLong(i);
        }
        for (; i < end; i++) {
            sum += data.getByte(i) & 0xff;
        }
        return sum;
    }

    private static boolean isAsSent(final DirectBuffer data, final int offset, final int length) {
        if (sum) {
            return sumOf(data, offset + Long.BYTES, offset + length) == sumSent;
        }
        return data.getByte(offset + length - 1) == (byte) (length - 1);
    }

    private static void received(final DirectBuffer data, final int offset, final int length) {
        final long tag = data.getLong(offset);
        final boolean good = latency || isAsSent(data, offset, length);
        if (tag >>> STREAM_SHIFT == WARM_UP_STREAM) {
            return;
        }
        if (next == 0) {
            usageBefore = usage();
            first = System.nanoTime(); // CLOCK_MONOTONIC, as for all peers
        }
        if (tag != next || !good) {
            wrong++;
        }
        if (latencies != null && next < count) {
            latencies[(int) next] = System.nanoTime() - data.getLong(offset + Long.BYTES);
        }
        bytes += length;
        if (++next == count) {
            last = System.nanoTime();
        }
    }

    /** User and system seconds, to a hundredth. */
    private static double[] usage() {
        try {
            final String stat = Files.readString(Path.of("/proc/self/stat"));
            final String[] fields = stat.substring(stat.lastIndexOf(')') + 2).split(" ");
            return new double[] {Long.parseLong(fields[11]) / 100.0, Long.parseLong(fields[12]) / 100.0};
        } catch (final IOException error) {
            throw failed("cannot read /proc/self/stat: " + error);
        }
    }

    private static String costs() {
        try {
            final double[] now = usage();
            final String peak = Files.readAllLines(Path.of("/proc/self/status")).stream()
                    .filter(line -> line.startsWith("VmHWM:")).findFirst().orElse("0").replaceAll("[^0-9]", "");
            return String.format(Locale.ROOT, "\"user\": %.6f, \"system\": %.6f, \"peak_kib\": %s}",
                    now[0] - usageBefore[0], now[1] - usageBefore[1], peak);
        } catch (final IOException error) {
            throw failed("cannot read /proc/self/status: " + error);
        }
    }

    private static boolean printReceived() {
        final boolean good = next == count && bytes == count * size && wrong == 0;
        final double seconds = good ? (last - first) / 1e9 : 0;
        String line = String.format(Locale.ROOT, "{\"complete\": %b, \"received\": %d, \"expected\": %d, \"bytes\": %d, "
                + "\"out_of_order\": %d, \"seconds\": %.9f, ", good, next, count, bytes, wrong, seconds);
        if (good && latencies != null) {
            final long[] sample = Arrays.copyOfRange(latencies, LATENCY_WARM_UP, latencies.length);
            Arrays.sort(sample);
            line += String.format(Locale.ROOT, "\"p50\": %d, \"p99\": %d, \"p999\": %d, ", sample[sample.length / 2],
                    sample[sample.length * 99 / 100], sample[(int) (sample.length * 999L / 1000)]);
        }
        System.out.println(line + costs());
        return good;
    }

    private static UnsafeBuffer newMessage() {
        final UnsafeBuffer message = new UnsafeBuffer(new byte[size]);
        for (int i = 0; i < size; i++) {
            message.putByte(i, (byte) i);
        }
        return message;
    }

    private static String channel() {
        final long length = BitUtil.findNextPositivePowerOfTwo(Math.max(term, (long) MESSAGES_PER_TERM * size));
        return "aeron:ipc?term-length=" + length + "|mtu=" + LONGEST_MTU;
    }

    private static Aeron.Context context() {
        return new Aeron.Context().aeronDirectoryName(path).driverTimeoutMs(TimeUnit.SECONDS.toMillis(patience));
    }

    private static void watch() {
        final Thread watcher = new Thread(() -> {
            LockSupport.parkNanos(TimeUnit.SECONDS.toNanos(patience));
            printReceived();
            Runtime.getRuntime().halt(1);
        });
        watcher.setDaemon(true);
        watcher.start();
    }

    private static void receive() {
        if (latency) {
            latencies = new long[(int) count];
        }
        sumSent = sumOf(newMessage(), Long.BYTES, size);
        watch();
        final long limit = TimeUnit.SECONDS.toNanos(patience); // a busy machine is no reason to give up earlier
        final AgentInvoker driver = MediaDriver.launch(new MediaDriver.Context().aeronDirectoryName(path)
                .threadingMode(ThreadingMode.INVOKER).clientLivenessTimeoutNs(limit).publicationUnblockTimeoutNs(2 * limit))
                .sharedAgentInvoker();
        final Aeron aeron = Aeron.connect(context().driverAgentInvoker(driver));
        final Subscription subscription = aeron.addSubscription(channel(), STREAM_ID);
        System.out.println("ready");
        final FragmentAssembler handler =
                new FragmentAssembler((data, offset, length, header) -> received(data, offset, length));
        while (!subscription.isConnected()) {
            driver.invoke();
            LockSupport.parkNanos(1_000_000);
        }
        while (last == 0) {
            driver.invoke();
            if (subscription.poll(handler, FRAGMENTS) == 0) {
                Thread.onSpinWait();
            }
        }
        Runtime.getRuntime().halt(printReceived() ? 0 : 1);
    }

    private static void offer(final ExclusivePublication publication, final UnsafeBuffer message) {
        long position;
        while ((position = publication.offer(message, 0, size)) < 0) {
            if (position != Publication.BACK_PRESSURED && position != Publication.ADMIN_ACTION) {
                throw failed("offer: " + Publication.errorString(position));
            }
            Thread.onSpinWait();
        }
    }

    private static void produceSlowly(final ExclusivePublication publication, final UnsafeBuffer message) {
        long due = System.nanoTime();
        for (long i = 0; i < count; i++) {
            due += LATENCY_PERIOD_NS;
            for (long left; (left = due - System.nanoTime()) > 0; ) {
                LockSupport.parkNanos(left);
            }
            message.putLong(0, i);
            message.putLong(Long.BYTES, System.nanoTime());
            offer(publication, message);
        }
    }

    private static void produce(final ExclusivePublication publication, final UnsafeBuffer message) {
        for (long i = 0; i < count; i++) {
            message.putLong(0, i);
            offer(publication, message);
        }
    }

    private static void warmUp(final ExclusivePublication publication, final UnsafeBuffer message) {
        final long begin = System.nanoTime();
        for (long i = 0; System.nanoTime() - begin < WARM_UP_NS; i++) {
            message.putLong(0, WARM_UP_STREAM << STREAM_SHIFT | i);
            offer(publication, message);
        }
    }

    private static void send() throws IOException {
        final Aeron aeron = Aeron.connect(context());
        final ExclusivePublication publication = aeron.addExclusivePublication(channel(), STREAM_ID);
        final UnsafeBuffer message = newMessage();
        if (size > publication.maxMessageLength()) {
            throw failed("Aeron's longest message has " + publication.maxMessageLength() + " bytes");
        }
        while (!publication.isConnected()) {
            LockSupport.parkNanos(1_000_000);
        }
        warmUp(publication, message);
        usageBefore = usage();
        final long begin = System.nanoTime();
        if (latency) {
            produceSlowly(publication, message);
        } else {
            produce(publication, message);
        }
        final long end = System.nanoTime();
        System.in.read();
        System.out.println(String.format(Locale.ROOT, "{\"sending\": %.9f, ", (end - begin) / 1e9) + costs());
        Runtime.getRuntime().halt(0);
    }

    private static void parse(final String argument) {
        final int equals = argument.indexOf('=');
        if (equals < 0) {
            throw failed("not KEY=VALUE: " + argument);
        }
        final String value = argument.substring(equals + 1);
        switch (argument.substring(0, equals)) {
            case "path": path = value; break;
            case "mode": latency = value.equals("latency"); break;
            case "sum": sum = !value.equals("0"); break;
            case "size": size = Integer.parseInt(value); break;
            case "count": count = Long.parseLong(value); break;
            case "term": term = Long.parseLong(value); break;
            case "patience": patience = Long.parseLong(value); break;
            case "queue": case "queue_bytes": break; // what may be under way depends on the term
            default: throw failed("unknown argument " + argument);
        }
    }

    public static void main(final String[] arguments) throws IOException {
        Arrays.stream(arguments).skip(1).forEach(AeronPeer::parse);
        if (arguments.length > 0 && arguments[0].equals("recv")) {
            receive();
        } else if (arguments.length > 0 && arguments[0].equals("send")) {
            send();
        } else {
            throw failed("usage: recv|send KEY=VALUE ...");
        }
    }
}
