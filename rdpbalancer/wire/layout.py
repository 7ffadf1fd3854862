"""The layouts of what goes over the wire, declared once and compiled once at import.

The only module that knows construct. Callers frame first and parse complete frames only: compiled layouts
do not check for a short read. Results are read by key, which costs a tenth of reading by attribute. The
bounds of each structure are its callers' affair.
"""

from typing import Final

from construct import (
    Bytes,
    Const,
    Default,
    GreedyBytes,
    Int8ub,
    Int8ul,
    Int16ub,
    Int16ul,
    Int32ul,
    Rebuild,
    Struct,
    len_,
    this,
)

# A TPKT header and an X.224 Connection Request, Connection Confirm or Disconnect Request: all three
# have seven fixed bytes (MS-RDPBCGR 2.2.1.1, RFC 1006 section 6, X.224 13.3, 13.4, 13.5).
# `length` counts its own header, `indicator` (LI) counts all behind itself, `class_option` is the
# reason in a Disconnect Request. 11 = 4 + 7, 6 = 7 - 1.
TPDU: Final = Struct(
    "version" / Const(3, Int8ub),
    "reserved" / Default(Int8ub, 0),
    "length" / Rebuild(Int16ub, len_(this.variable) + 11),
    "indicator" / Rebuild(Int8ub, len_(this.variable) + 6),
    "code" / Int8ub,
    "destination_reference" / Default(Int16ub, 0),
    "source_reference" / Default(Int16ub, 0),
    "class_option" / Default(Int8ub, 0),
    "variable" / GreedyBytes,
).compile()

# RDP_NEG_REQ, RDP_NEG_RSP and RDP_NEG_FAILURE share one shape (MS-RDPBCGR 2.2.1.1.1, 2.2.1.2.1,
# 2.2.1.2.2). `value`: requestedProtocols, selectedProtocol, or the failure's code.
NEGOTIATION: Final = Struct(
    "type" / Int8ul,
    "flags" / Default(Int8ul, 0),
    "length" / Default(Int16ul, 8),
    "value" / Int32ul,
).compile()

# RDP_NEG_CORRELATION_INFO (MS-RDPBCGR 2.2.1.1.2).
CORRELATION: Final = Struct(
    "type" / Default(Int8ul, 6),
    "flags" / Default(Int8ul, 0),
    "length" / Default(Int16ul, 36),
    "identifier" / Bytes(16),
    "reserved" / Default(Bytes(16), bytes(16)),
).compile()

# RDP_PRECONNECTION_PDU_V1, and the head of V2 (MS-RDPEPS 2.2.1). V2 goes on with a u16 count of
# UTF-16 code units and the text: `text` holds both.
PRECONNECTION: Final = Struct(
    "size" / Rebuild(Int32ul, len_(this.text) + 16),
    "flags" / Default(Int32ul, 0),
    "version" / Int32ul,
    "id" / Int32ul,
    "text" / GreedyBytes,
).compile()

# PROXY protocol version 2 (proxy-protocol.txt section 2.2). `payload`: addresses, then TLVs.
PROXY_V2: Final = Struct(
    "signature" / Const(b"\r\n\r\n\x00\r\nQUIT\n"),
    "version_command" / Int8ub,
    "family" / Int8ub,
    "length" / Rebuild(Int16ub, len_(this.payload)),
    "payload" / GreedyBytes,
).compile()

PROXY_TCP4: Final = Struct(
    "source" / Bytes(4),
    "destination" / Bytes(4),
    "source_port" / Int16ub,
    "destination_port" / Int16ub,
).compile()

PROXY_TCP6: Final = Struct(
    "source" / Bytes(16),
    "destination" / Bytes(16),
    "source_port" / Int16ub,
    "destination_port" / Int16ub,
).compile()
