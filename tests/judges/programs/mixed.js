// What V8's compilers find hard: types that change under hot code, deoptimisation, exceptions, regular
// expressions, BigInt, garbage collection, WebAssembly's traps, threads over shared memory.
'use strict';
const crypto = require('crypto');
const zlib = require('zlib');
const { Worker, isMainThread, workerData, parentPort } = require('worker_threads');

const scale = Number(process.argv[2] || 1);
const report = (name, ...values) => console.log(name, ...values.map(String));

function random(seed) {
	let x = seed >>> 0;
	return () => {
		x ^= x << 13; x >>>= 0; x ^= x >>> 17; x ^= x << 5; x >>>= 0;
		return x;
	};
}

function shared(view, id, rounds) {
	// A lock and a counter that only the lock guards, and one that is atomic by itself.
	for (let i = 0; i < rounds; i++) {
		while (Atomics.compareExchange(view, 0, 0, 1) !== 0) Atomics.wait(view, 0, 1, 1);
		view[1] = view[1] + 1;
		Atomics.store(view, 0, 0);
		Atomics.notify(view, 0, 1);
		Atomics.add(view, 2, id);
		Atomics.xor(view, 3, i * id);
	}
}

if (!isMainThread) {
	const view = new Int32Array(workerData.buffer);
	shared(view, workerData.id, workerData.rounds);
	let hash = crypto.createHash('sha1');
	for (let i = 0; i < 2000; i++) hash.update('worker' + workerData.id + i);
	parentPort.postMessage([workerData.id, hash.digest('hex')]);
	return;
}

function regexes(n) {
	let text = '', next = random(42);
	for (let i = 0; i < n; i++) text += 'acgtACGT\n'[next() % 9];
	const patterns = [/agggtaaa|tttaccct/ig, /[cgt]gggtaaa|tttaccc[acg]/ig, /a[act]ggtaaa|tttacc[agt]t/ig,
		/(ac)+(?=g)/g, /(?<=t)g(c|a)\1/ig, /^[acgt]{3,9}$/gmi, /(a+)(c*)(g?)\2/gi];
	const counts = patterns.map((p) => (text.match(p) || []).length);
	const replaced = text.replace(/tHa[Nt]|ca(.)/ig, '<$1>').replace(/\|[^|][^|]*\|/g, '|')
		.replace(/([ac])([gt])/gi, (m, a, b) => b + a.toUpperCase());
	return counts.concat(replaced.length, crypto.createHash('md5').update(replaced).digest('hex'));
}

function deopts(n) {
	const shapes = [(i) => ({ x: i, y: 1 }), (i) => ({ y: i, x: 2 }), (i) => ({ x: i + 0.5, z: 1, y: 3 }),
		(i) => ({ x: String(i), y: 4 }), (i) => [i, i], (i) => new Map([['x', i]]), (i) => i, (i) => null,
		(i) => BigInt(i)];
	const add = (o) => {
		if (o === null) return 1;
		if (typeof o === 'bigint') return Number(o * 3n);
		return Number(o.x ?? o.size ?? o.length ?? o) + (o.y | 0);
	};
	let sum = 0;
	for (let s = 0; s < shapes.length; s++)
		for (let i = 0; i < n; i++) sum += add(shapes[(i % 97 === 0) ? (s + i) % shapes.length : s](i)) % 1000;
	return sum;
}

function exceptions(n) {
	class Wrong extends Error { constructor(i) { super('wrong ' + i); this.i = i; } }
	const thrower = (d, i) => {
		try {
			if (d === 0) {
				if (i % 3 === 0) throw new Wrong(i);
				if (i % 5 === 0) return null.x;
				if (i % 7 === 0) return BigInt(i) + 1;
				return i;
			}
			return thrower(d - 1, i);
		} finally {
			thrower.count = (thrower.count | 0) + 1;
		}
	};
	let sum = 0, texts = 0;
	for (let i = 0; i < n; i++) {
		try { sum += thrower(i % 9, i); } catch (e) {
			if (e instanceof Wrong) sum -= e.i; else texts += e.message.length;
		}
	}
	let depth = 0;
	const fall = () => { depth++; fall(); };
	let overflows = 0;
	for (let i = 0; i < 3; i++) try { fall(); } catch (e) { overflows += e instanceof RangeError; }
	return [sum, texts, thrower.count, overflows, depth > 1000];
}

function bigints(digits) {
	let q = 1n, r = 0n, t = 1n, k = 1n, n = 3n, l = 3n, out = '';
	while (out.length < digits) {
		if (4n * q + r - t < n * t) {
			out += n;
			const nr = 10n * (r - n * t);
			n = 10n * (3n * q + r) / t - 10n * n;
			q *= 10n;
			r = nr;
		} else {
			const nr = (2n * q + r) * l;
			n = (q * (7n * k) + 2n + r * l) / (t * l);
			q *= k; t *= l; l += 2n; k += 1n; r = nr;
		}
	}
	let power = (1n << 2203n) - 1n, s = 4n;
	for (let i = 0; i < 60; i++) s = (s * s - 2n) % power;
	return [out, s.toString(16).slice(0, 64), BigInt.asIntN(64, -s).toString()];
}

function floats(n) {
	const a = new Float64Array(n), b = new Float32Array(n), c = new Uint8ClampedArray(n), d = new BigInt64Array(n);
	const next = random(7);
	for (let i = 0; i < n; i++) {
		a[i] = (next() - 2 ** 31) / 1e5;
		b[i] = Math.sin(a[i]) * 1e20;
		c[i] = a[i];
		d[i] = BigInt(Math.trunc(a[i])) ** 3n;
	}
	let sum = 0, ints = 0;
	for (let round = 0; round < 10; round++)
		for (let i = 0; i < n; i++) {
			a[i] = Math.sqrt(Math.abs(a[i])) + Math.fround(b[i] % 1000) - Math.atan2(c[i], i + 1);
			sum += a[i];
			ints = (Math.imul(ints, 31) + (a[i] * 1000 | 0)) | 0;
			ints ^= Math.clz32(i) + (b[i] >>> 3);
		}
	a.sort(); d.sort();
	return [sum, ints, a[0], a[n >> 1], b[17], d[0], d[n - 1], [-0, NaN, 1e21, 5e-324, 0.1 + 0.2].join()];
}

function garbage(n) {
	const keep = new Map(), weak = new WeakMap(), ring = new Array(512);
	let sum = 0;
	for (let i = 0; i < n; i++) {
		const o = { id: i, text: 'n' + i, next: ring[(i * 7) % 512], big: i % 50 === 0 ? new Array(300).fill(i) : null };
		ring[i % 512] = o;
		if (o.next) o.next.next = null;
		weak.set(o, i);
		if (i % 3 === 0) keep.set(o.text, o);
		if (i % 4096 === 4095) for (const [key, value] of keep) { sum += weak.get(value) + key.length; keep.delete(key); }
	}
	const text = JSON.stringify([...keep.values()].map((o) => ({ ...o, next: undefined })));
	return [sum, keep.size, text.length, JSON.parse(text).reduce((s, o) => s + o.id, 0)];
}

function* walk(n) { for (let i = 0; i < n; i++) { const got = yield i * i; if (got) i += got; } }

function generators(n) {
	let sum = 0;
	const it = walk(n);
	for (let r = it.next(); !r.done; r = it.next(sum % 3)) sum += r.value % 1009;
	const [a, ...rest] = [...walk(50)].map((v, i) => v ^ i >> 1).filter((v) => v & 1).sort((p, q) => p % 10 - q % 10 || p - q);
	return [sum, a, rest.join('.')];
}

// Fresh code again and again: functions made of text, hot for a moment, then garbage.
function generated(n) {
	let sum = 0;
	for (let i = 0; i < n; i++) {
		const f = new Function('n', `let x = ${i % 13}; for (let i = 0; i < n; i++) x = (x * ${i % 31 + 1} + i % ${i % 7 + 2}) % 65521; return x;`);
		for (let k = 0; k < 20; k++) sum += f(100 + k);
	}
	return sum;
}

// Exports sum(n), which adds n words of memory, so that it traps behind the memory's end; div; fib. V8
// notices the end by a SIGSEGV in compiled code.
function wasm() {
	const bytes = Buffer.from(
		'0061736d01000000010c0260017f017f60027f7f017f0304030001000504010101010717040373756d00000364697600' +
		'01036669620002016d02000a4d032601027f03402001411f6c20022802006a2101200241046a2102200041016b22000d' +
		'000b20010b0700200020016d0b1c002000410248047f200005200041016b1002200041026b10026a0b0b', 'hex');
	const out = [WebAssembly.validate(bytes)];
	if (!out[0]) return out;
	const { sum, div, fib, m } = new WebAssembly.Instance(new WebAssembly.Module(bytes)).exports;
	const next = random(99);
	const words = new Uint32Array(m.buffer);
	for (let i = 0; i < words.length; i++) words[i] = next();
	let ok = 0, traps = 0;
	for (let i = 0; i < 300; i++) {
		ok ^= sum(16384 - i);
		try { sum(16385 + i); } catch (e) { traps += e instanceof WebAssembly.RuntimeError; }
		try { div(i, i % 2); } catch (e) { traps += 1000; }
		try { div(-2147483648, -1); } catch (e) { traps += 1000000; }
	}
	return out.concat(ok, traps, fib(22), div(-7, 2));
}

function packed(n) {
	const next = random(5), data = Buffer.alloc(n);
	for (let i = 0; i < n; i++) data[i] = next() % (1 + i % 200);
	const hashes = ['sha256', 'sha512', 'sha1', 'md5', 'sha3-256', 'blake2b512']
		.map((h) => crypto.createHash(h).update(data).digest('hex').slice(0, 24));
	const cipher = crypto.createCipheriv('aes-256-gcm', data.subarray(0, 32), data.subarray(32, 44));
	const secret = Buffer.concat([cipher.update(data), cipher.final()]);
	const key = crypto.pbkdf2Sync('password', 'salt', 2000, 32, 'sha256').toString('hex');
	const deflated = zlib.deflateSync(data, { level: 9 }), brotli = zlib.brotliCompressSync(data);
	const same = zlib.inflateSync(deflated).equals(data) && zlib.brotliDecompressSync(brotli).equals(data);
	return [...hashes, crypto.createHash('sha256').update(secret).update(cipher.getAuthTag()).digest('hex'), key,
		deflated.length, brotli.length, same];
}

async function threads(rounds) {
	const buffer = new SharedArrayBuffer(64), view = new Int32Array(buffer), all = [];
	for (let id = 1; id <= 4; id++)
		all.push(new Promise((resolve, reject) => {
			const worker = new Worker(__filename, { workerData: { buffer, id, rounds } });
			worker.on('message', resolve);
			worker.on('error', reject);
		}));
	const answers = (await Promise.all(all)).sort((a, b) => a[0] - b[0]);
	return [view[1], view[2], view[3], answers.flat().join()];
}

(async () => {
	report('regexes', ...regexes(60000 * scale));
	report('deopts', deopts(60000 * scale));
	report('exceptions', ...exceptions(20000 * scale));
	report('bigints', ...bigints(400 * scale));
	report('floats', ...floats(20000 * scale));
	report('garbage', ...garbage(120000 * scale));
	report('generators', ...generators(100000 * scale));
	report('generated', generated(1500 * scale));
	report('wasm', ...wasm());
	report('packed', ...packed(300000 * scale));
	report('threads', ...await threads(3000 * scale));
	let ticks = 0;
	for await (const v of (async function* () { for (let i = 0; i < 2000; i++) { await null; yield i; } })()) ticks += v;
	report('async', ticks);
})();
