/* Lua programs: a large interpreter that runs a small one's loops. Two are integer and string work,
 * two are floating-point. */
#include "workload.h"

#include <stdbool.h>
#include <stdio.h>

#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>

static lua_State *lua;

/* Each program is a function that returns a number. */
static const char fib[] = "local function fib(n)\n"
			  "	if n < 2 then return n end\n"
			  "	return fib(n - 1) + fib(n - 2)\n"
			  "end\n"
			  "return function() return fib(15) end\n";

static const char strings[] =
	"return function()\n"
	"	local parts, seen, total = {}, {}, 0\n"
	"	for i = 1, 60 do\n"
	"		parts[#parts + 1] = string.format('%d:%s', i * 7919 % 1000, "
	"string.rep('ab', i % 7))\n"
	"	end\n"
	"	local line = table.concat(parts, ' ')\n"
	"	for number, word in line:gmatch('(%d+):(%a*)') do\n"
	"		local key = word:upper() .. number:sub(-1)\n"
	"		seen[key] = (seen[key] or 0) + #key\n"
	"	end\n"
	"	line = line:gsub('ab', 'xyz'):reverse()\n"
	"	for _, n in pairs(seen) do total = total + n end\n"
	"	return total * 1000 + #line + (line:find('zyx', 1, true) or 0)\n"
	"end\n";

static const char nbody[] =
	"local sqrt = math.sqrt\n"
	"local function body(i)\n"
	"	return { x = i * 1.5, y = 3 - i, z = i * i / 8, vx = i / 7, vy = 0.25, vz = -i / "
	"9,\n"
	"		m = 1 / (i + 1) }\n"
	"end\n"
	"return function()\n"
	"	local all = {}\n"
	"	for i = 0, 4 do all[i + 1] = body(i) end\n"
	"	for step = 1, 40 do\n"
	"		for i = 1, 5 do\n"
	"			local a = all[i]\n"
	"			for j = i + 1, 5 do\n"
	"				local b = all[j]\n"
	"				local dx, dy, dz = a.x - b.x, a.y - b.y, a.z - b.z\n"
	"				local d2 = dx * dx + dy * dy + dz * dz\n"
	"				local pull = 0.01 / (d2 * sqrt(d2))\n"
	"				a.vx = a.vx - dx * b.m * pull\n"
	"				a.vy = a.vy - dy * b.m * pull\n"
	"				a.vz = a.vz - dz * b.m * pull\n"
	"				b.vx = b.vx + dx * a.m * pull\n"
	"				b.vy = b.vy + dy * a.m * pull\n"
	"				b.vz = b.vz + dz * a.m * pull\n"
	"			end\n"
	"		end\n"
	"		for i = 1, 5 do\n"
	"			local a = all[i]\n"
	"			a.x, a.y, a.z = a.x + 0.01 * a.vx, a.y + 0.01 * a.vy, a.z + 0.01 * "
	"a.vz\n"
	"		end\n"
	"	end\n"
	"	return all[1].x + all[2].y + all[3].z\n"
	"end\n";

static const char spectral[] =
	"local N = 24\n"
	"local function entry(i, j) return 1 / ((i + j) * (i + j + 1) / 2 + i + 1) end\n"
	"local function multiply(from, to, turned)\n"
	"	for i = 1, N do\n"
	"		local sum = 0\n"
	"		for j = 1, N do\n"
	"			sum = sum + from[j] * (turned and entry(j, i) or entry(i, j))\n"
	"		end\n"
	"		to[i] = sum\n"
	"	end\n"
	"end\n"
	"return function()\n"
	"	local u, v, w = {}, {}, {}\n"
	"	for i = 1, N do u[i] = 1 end\n"
	"	for step = 1, 2 do\n"
	"		multiply(u, w, false) multiply(w, v, true)\n"
	"		multiply(v, w, false) multiply(w, u, true)\n"
	"	end\n"
	"	local uv, vv = 0, 0\n"
	"	for i = 1, N do uv, vv = uv + u[i] * v[i], vv + v[i] * v[i] end\n"
	"	return math.sqrt(uv / vv)\n"
	"end\n";

static bool setup(const char *program)
{
	lua = luaL_newstate();
	if (!lua)
		return false;
	luaL_openlibs(lua);
	if (luaL_loadstring(lua, program) || lua_pcall(lua, 0, 1, 0)) {
		bench_reason = lua_tostring(lua, -1);
		return false;
	}
	return true;
}

static bool fib_setup(void)
{
	return setup(fib);
}

static bool strings_setup(void)
{
	return setup(strings);
}

static bool nbody_setup(void)
{
	return setup(nbody);
}

static bool spectral_setup(void)
{
	return setup(spectral);
}

static uint64_t lua_run(uint64_t ops)
{
	for (uint64_t i = 0; i < ops; i++) {
		lua_Number number;

		lua_pushvalue(lua, -1);
		if (lua_pcall(lua, 0, 1, 0)) {
			fprintf(stderr, "lua: %s\n", lua_tostring(lua, -1));
			return 0;
		}
		number = lua_tonumber(lua, -1);
		lua_pop(lua, 1);
		bench_check = bench_digest(&number, sizeof(number));
	}
	return ops;
}

const struct workload lua_workloads[] = {
	{ "lua_fib", "integer", fib_setup, lua_run, 0 },
	{ "lua_strings", "integer", strings_setup, lua_run, 0 },
	{ "lua_nbody", "float", nbody_setup, lua_run, 0 },
	{ "lua_spectral", "float", spectral_setup, lua_run, 0 },
	{ 0 },
};
