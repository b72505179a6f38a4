-- The promises of this module, written for nginx and Redis: the signature is
-- checked, an event that is being delivered is claimed, one that was delivered is
-- dropped, and a delivery is durable before the sender learns of it. Claims are in
-- the memory that nginx's workers share, so that one synced write per event is
-- enough. This is a yardstick for the benchmark.
local ffi = require "ffi"
local json = require "cjson.safe"

ffi.cdef [[
const void *EVP_sha256(void);
unsigned char *HMAC(const void *md, const void *key, int key_length,
	const unsigned char *data, size_t length, unsigned char *out, unsigned int *out_length);
int CRYPTO_memcmp(const void *a, const void *b, size_t length);
]]
local crypto = ffi.C -- nginx itself is linked with OpenSSL
local digest = ffi.new("unsigned char[32]")

local retention, forwardTimeout = 30 * 24 * 3600, 120 -- seconds

local function isSigned(body, signature)
	if type(signature) ~= "string" or not signature:match("^%x+$") or #signature ~= 64 then
		return false
	end
	local claimed = signature:gsub("%x%x", function(byte) return string.char(tonumber(byte, 16)) end)
	crypto.HMAC(crypto.EVP_sha256(), secret, #secret, body, #body, digest, nil)
	return crypto.CRYPTO_memcmp(digest, claimed, 32) == 0
end

-- ask sends a command to Redis and returns its answer, which is nil or one line.
local function ask(...)
	local connection = ngx.socket.tcp()
	assert(connection:connect(redis))
	local command = { "*", select("#", ...), "\r\n" }
	for _, argument in ipairs { ... } do
		argument = tostring(argument)
		command[#command + 1] = "$" .. #argument .. "\r\n" .. argument .. "\r\n"
	end
	assert(connection:send(command))
	local line = assert(connection:receive())
	local kind = line:sub(1, 1)
	assert(kind ~= "-", line)
	local answer = line:sub(2)
	if kind == "$" then
		answer = answer ~= "-1" and assert(connection:receive()) or nil
	end
	connection:setkeepalive(60000, 256)
	return answer
end

local function answer(status, text)
	ngx.status = status
	ngx.header["Content-Length"] = #text
	ngx.print(text)
end

local function deliver(body, key)
	if ask("GET", key) then
		return answer(200, '{"received": true, "duplicate": true}')
	end
	ngx.req.set_header("Idempotency-Key", key)
	ngx.req.set_header("X-InstantAPI-Verified", "true")
	local response = ngx.location.capture("/backend", { method = ngx.HTTP_POST, body = body })
	if response.status >= 200 and response.status <= 299 then
		ask("SET", key, response.status, "EX", retention)
	end
	answer(response.status, response.body)
end

return function()
	ngx.req.read_body()
	local body = ngx.req.get_body_data() or ""
	if not isSigned(body, ngx.req.get_headers()["X-InstantAPI-Signature"]) then
		return answer(401, '{"error": "Invalid signature"}')
	end
	local event = json.decode(body)
	if type(event) ~= "table" then
		return answer(400, '{"error": "Invalid JSON"}')
	end
	local key = ngx.encode_base64(ngx.sha1_bin(ngx.var.host .. ngx.var.uri .. "\0" ..
		tostring(event.event_type) .. "\0" .. tostring(event.task_id)))
	if not ngx.shared.in_flight:add(key, true, forwardTimeout) then
		return answer(503, '{"error": "Delivery in progress"}')
	end
	local ok, err = pcall(deliver, body, key)
	ngx.shared.in_flight:delete(key)
	if not ok then
		ngx.log(ngx.ERR, err)
		answer(503, '{"error": "Store unavailable"}')
	end
end
