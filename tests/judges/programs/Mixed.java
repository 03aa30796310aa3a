// What HotSpot finds hard and does by means of signals, code patching and several threads: implicit null
// checks, stack overflow, division by zero, safepoints, deoptimisation, monitors, moving collectors.
import java.math.BigDecimal;
import java.math.BigInteger;
import java.math.MathContext;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.util.*;
import java.util.concurrent.*;
import java.util.concurrent.atomic.*;
import java.util.concurrent.locks.*;
import java.util.function.*;
import java.util.regex.*;
import java.util.stream.*;
import java.util.zip.*;
import javax.crypto.Cipher;
import javax.crypto.spec.*;

public class Mixed {
	static int scale = 1;

	static void report(String name, Object... values) {
		System.out.println(name + " " + Arrays.stream(values).map(String::valueOf).collect(Collectors.joining(" ")));
	}

	static class Node {
		Node left, right;
		int value;
		Node(int depth, int value) {
			this.value = value;
			if (depth > 0) {
				left = new Node(depth - 1, value * 2);
				right = new Node(depth - 1, value * 2 + 1);
			}
		}
		long sum() { return value + (left == null ? 0 : left.sum() + right.sum()); }
	}

	static long trees() {
		long sum = 0;
		Node kept = new Node(14, 1);
		for (int i = 0; i < 60 * scale; i++) sum += new Node(10, i).sum();
		return sum + kept.sum();
	}

	static int nullOrArray(int[] array, int i) { return array[i] + array.length; }

	// Implicit checks: SIGSEGV and SIGFPE in compiled code, then deoptimisation.
	static String implicit() {
		int nulls = 0, bounds = 0, divisions = 0, casts = 0, stores = 0;
		long sum = 0;
		int[] array = { 1, 2, 3, 4, 5, 6, 7, 8 };
		Object[] things = { "a", 1, 2.0, 'c' };
		for (int i = 0; i < 60000 * scale; i++) {
			try {
				sum += nullOrArray(i % 1000 == 999 ? null : array, i % 9);
			} catch (NullPointerException e) { nulls++; } catch (ArrayIndexOutOfBoundsException e) { bounds++; }
			try { sum += i / (i % 101); } catch (ArithmeticException e) { divisions++; }
			try { sum += ((String) things[i % 4]).length(); } catch (ClassCastException e) { casts++; }
			try { Object[] o = new String[1]; o[0] = things[i % 4]; } catch (ArrayStoreException e) { stores++; }
		}
		return sum + " " + nulls + " " + bounds + " " + divisions + " " + casts + " " + stores + " " +
			Integer.MIN_VALUE / -1 + " " + Long.MIN_VALUE % -1L;
	}

	static int depth;
	static void fall() { depth++; fall(); }

	static String overflow() {
		int caught = 0;
		for (int i = 0; i < 20; i++) {
			depth = 0;
			try { fall(); } catch (StackOverflowError e) { if (depth > 500) caught++; }
		}
		return "" + caught;
	}

	interface Shape { double area(); }
	record Square(double a) implements Shape { public double area() { return a * a; } }
	record Circle(double r) implements Shape { public double area() { return r * r * Math.PI; } }
	record Pair(Shape a, Shape b) implements Shape { public double area() { return a.area() - b.area(); } }

	// Call sites that are monomorphic until they are not.
	static double polymorph() {
		double sum = 0;
		for (int round = 0; round < 4; round++)
			for (int i = 0; i < 100000 * scale; i++) {
				Shape s = round == 0 || i % 5000 != 0 ? new Square(i % 100) : round < 3 ? new Circle(i % 7) :
					new Pair(new Square(i % 3), new Circle(1));
				sum += s.area();
			}
		Shape late = () -> 42.5;
		for (int i = 0; i < 50000; i++) sum += (i % 2 == 0 ? late : new Square(1)).area();
		return sum;
	}

	static String numbers() {
		BigInteger p = BigInteger.ONE.shiftLeft(2203).subtract(BigInteger.ONE), s = BigInteger.valueOf(4);
		for (int i = 0; i < 60; i++) s = s.multiply(s).subtract(BigInteger.TWO).mod(p);
		BigInteger key = new BigInteger("c0ffee".repeat(80), 16).modPow(new BigInteger("1234567".repeat(40)), p);
		BigDecimal e = BigDecimal.ONE, term = BigDecimal.ONE;
		for (int i = 1; i < 120; i++) {
			term = term.divide(BigDecimal.valueOf(i), new MathContext(150));
			e = e.add(term);
		}
		double x = 0.5;
		float f = 1;
		long bits = 0;
		for (int i = 1; i < 200000 * scale; i++) {
			x = Math.sin(x * i) + Math.fma(x, 0.25, Math.sqrt(i)) % 3 + StrictMath.cbrt(i) / Math.exp(x % 5);
			f = f * 1.0001f + (float) x;
			if (f > 1e30f) f = -f / 1e30f;
			bits = bits * 31 + Double.doubleToRawLongBits(x) + (int) (x * 1e12) + (long) f;
			bits ^= Long.bitCount(bits) + Long.numberOfLeadingZeros(i) + Long.reverse(i) + Integer.numberOfTrailingZeros(i);
		}
		return s.hashCode() + " " + key.hashCode() + " " + e.hashCode() + " " + x + " " + f + " " + bits + " " +
			(int) Double.NaN + " " + (long) 1e30 + " " + Math.round(-2.5) + " " + Math.multiplyHigh(bits, bits);
	}

	// Loops that HotSpot makes SIMD of.
	static String vectors() {
		int n = 5000;
		int[] a = new int[n], b = new int[n];
		double[] d = new double[n];
		byte[] bytes = new byte[n];
		short[] shorts = new short[n];
		char[] chars = new char[n];
		for (int i = 0; i < n; i++) { a[i] = i * 7919; b[i] = i ^ 0x5555; d[i] = i / 3.0; bytes[i] = (byte) (i * 31); }
		long sum = 0;
		for (int round = 0; round < 300 * scale; round++) {
			for (int i = 0; i < n; i++) a[i] = a[i] * 3 + b[i] - (a[i] >>> 5);
			for (int i = 0; i < n; i++) d[i] = Math.abs(d[i] * 0.5 - b[i]) + Math.max(a[i] & 15, round);
			for (int i = 0; i < n; i++) bytes[i] = (byte) (bytes[i] + a[i] ^ round);
			for (int i = 0; i < n; i++) shorts[i] = (short) (shorts[i] - bytes[i] << 1);
			for (int i = 0; i < n; i++) sum += a[i] ^ shorts[i];
			System.arraycopy(a, 1, a, 0, n - 1);
			Arrays.fill(chars, round % n, n, (char) round);
		}
		return sum + " " + Arrays.hashCode(a) + " " + Arrays.hashCode(d) + " " + Arrays.hashCode(bytes) + " " +
			Arrays.hashCode(shorts) + " " + Arrays.hashCode(chars) + " " + Arrays.mismatch(a, b) + " " + Arrays.equals(a, a.clone());
	}

	static String texts() {
		StringBuilder out = new StringBuilder();
		for (int i = 0; i < 20000 * scale; i++) out.append(i * 7919L % 100003).append(i % 3 == 0 ? "-\u00e9" : ",x").append((char) (97 + i % 26));
		String text = out.toString();
		Matcher m = Pattern.compile("(\\d{2,3})([-,])(\\p{L})(?=[a-m])").matcher(text);
		int found = 0;
		while (m.find()) found += m.group(1).length() + m.group(3).codePointAt(0);
		Map<String, Integer> counts = new TreeMap<>();
		for (String word : text.split("[-,]")) counts.merge(word, 1, Integer::sum);
		String sorted = counts.entrySet().stream().sorted(Map.Entry.<String, Integer>comparingByValue().reversed()
			.thenComparing(Map.Entry.comparingByKey())).limit(5).map(Object::toString).collect(Collectors.joining(";"));
		return text.hashCode() + " " + found + " " + counts.size() + " " + sorted + " " +
			new String(text.getBytes(StandardCharsets.UTF_8), StandardCharsets.UTF_8).equals(text) + " " +
			String.format("%08.3f|%x|%-6s|%,d", 3.14159, 48879, "ab", 1234567) + " " + text.replaceAll("([a-f]+)(\\d)", "$2$1").hashCode();
	}

	static String digests() throws Exception {
		byte[] data = new byte[400000 * scale];
		new Random(3).nextBytes(data);
		StringBuilder out = new StringBuilder();
		for (String name : new String[] { "SHA-1", "SHA-256", "SHA-512", "MD5", "SHA3-256" }) {
			byte[] digest = MessageDigest.getInstance(name).digest(data);
			out.append(HexFormat.of().formatHex(digest), 0, 16).append(' ');
		}
		Cipher cipher = Cipher.getInstance("AES/GCM/NoPadding");
		cipher.init(Cipher.ENCRYPT_MODE, new SecretKeySpec(data, 0, 16, "AES"), new GCMParameterSpec(128, data, 16, 12));
		byte[] secret = cipher.doFinal(data);
		Cipher cbc = Cipher.getInstance("AES/CBC/PKCS5Padding");
		cbc.init(Cipher.ENCRYPT_MODE, new SecretKeySpec(data, 0, 32, "AES"), new IvParameterSpec(data, 32, 16));
		CRC32 crc = new CRC32();
		crc.update(secret);
		CRC32C crc32c = new CRC32C();
		crc32c.update(cbc.doFinal(secret));
		Adler32 adler = new Adler32();
		adler.update(data);
		Deflater deflater = new Deflater(9);
		byte[] packed = new byte[data.length + 1000];
		deflater.setInput(secret, 0, 100000);
		deflater.finish();
		return out + "" + crc.getValue() + " " + crc32c.getValue() + " " + adler.getValue() + " " + deflater.deflate(packed) + " " +
			Base64.getEncoder().encodeToString(secret).hashCode();
	}

	static int guarded;
	static synchronized void guardedAdd() { guarded++; }

	static String threads() throws Exception {
		int rounds = 20000 * scale;
		ConcurrentHashMap<Integer, LongAdder> map = new ConcurrentHashMap<>();
		AtomicLong atomic = new AtomicLong();
		ReentrantReadWriteLock lock = new ReentrantReadWriteLock();
		long[] plain = new long[1];
		Thread[] all = new Thread[6];
		Exchanger<Integer> exchanger = new Exchanger<>();
		LongAdder exchanged = new LongAdder();
		for (int t = 0; t < all.length; t++) {
			int id = t;
			all[t] = new Thread(() -> {
				for (int i = 0; i < rounds; i++) {
					guardedAdd();
					map.computeIfAbsent(i % 50, k -> new LongAdder()).add(id);
					atomic.getAndUpdate(v -> v + id + 1);
					if (i % 4 == 0) {
						lock.writeLock().lock();
						try { plain[0]++; } finally { lock.writeLock().unlock(); }
					} else if (i % 512 == 1 && id < 2) { // two of them, who meet as often as each other
						try { exchanged.add(exchanger.exchange(i)); } catch (InterruptedException e) { throw new RuntimeException(e); }
					}
				}
			});
			all[t].start();
		}
		for (Thread thread : all) thread.join();
		ForkJoinPool pool = new ForkJoinPool(4);
		long forked = pool.submit(() -> LongStream.range(0, 300000L * scale).parallel().map(v -> v * v % 1009).sum()).get();
		pool.shutdown();
		SynchronousQueue<Integer> queue = new SynchronousQueue<>();
		Thread producer = new Thread(() -> { try { for (int i = 0; i < 3000; i++) queue.put(i); } catch (InterruptedException e) { } });
		producer.start();
		long taken = 0;
		for (int i = 0; i < 3000; i++) taken += queue.take() * (long) i;
		Object monitor = new Object();
		int[] turn = { 0 };
		Thread[] turns = new Thread[3];
		for (int t = 0; t < 3; t++) {
			int id = t;
			turns[t] = new Thread(() -> {
				try {
					for (int i = 0; i < 500; i++)
						synchronized (monitor) {
							while (turn[0] % 3 != id) monitor.wait();
							turn[0]++;
							monitor.notifyAll();
						}
				} catch (InterruptedException e) { }
			});
			turns[t].start();
		}
		for (Thread thread : turns) thread.join();
		return guarded + " " + map.values().stream().mapToLong(LongAdder::sum).sum() + " " + atomic + " " + plain[0] + " " +
			exchanged + " " + forked + " " + taken + " " + turn[0];
	}

	static long garbage() {
		Map<Integer, byte[]> cache = new LinkedHashMap<>() {
			protected boolean removeEldestEntry(Map.Entry<Integer, byte[]> eldest) { return size() > 300; }
		};
		long sum = 0;
		List<int[]> ring = new ArrayList<>(Collections.nCopies(1000, null));
		for (int i = 0; i < 60000 * scale; i++) {
			byte[] b = new byte[1000 + i % 3000];
			b[i % b.length] = (byte) i;
			cache.put(i % 700, b);
			byte[] old = cache.get((i * 7) % 700);
			if (old != null) sum += old.length + old[i % old.length];
			int[] r = ring.set(i * 31 % 1000, new int[] { i, i + 1 });
			if (r != null) sum += r[0] ^ r[1];
		}
		return sum;
	}

	static String lambdas() {
		Function<Integer, Integer> f = x -> x + 1;
		for (int i = 0; i < 200; i++) { int k = i; f = f.andThen(x -> (x * 3 + k) % 100003); }
		long sum = 0;
		for (int i = 0; i < 300 * scale; i++) sum += f.apply(i);
		Map<Integer, Long> groups = IntStream.range(0, 60000).boxed().collect(Collectors.groupingBy(i -> i * 31 % 17, TreeMap::new, Collectors.summingLong(i -> i)));
		return sum + " " + groups;
	}

	public static void main(String[] args) throws Exception {
		if (args.length > 0) scale = Integer.parseInt(args[0]);
		report("trees", trees());
		report("implicit", implicit());
		report("overflow", overflow());
		report("polymorph", polymorph());
		report("numbers", numbers());
		report("vectors", vectors());
		report("texts", texts());
		report("digests", digests());
		report("threads", threads());
		report("garbage", garbage());
		report("lambdas", lambdas());
	}
}
