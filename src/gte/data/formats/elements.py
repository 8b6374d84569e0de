"""XML elements cut out of their files: each is parsed by itself, so nothing that a file declares reaches it."""

from lxml import etree

from gte.data.reasons import Reason, Unfit

PARSER = etree.XMLParser(resolve_entities=False, no_network=True)


def parse_element(xml: bytes) -> etree._Element:
    """One element. Raises Unfit where it is none, and for a reference to an entity that the file itself declares."""
    try:
        xml.decode()
        return etree.fromstring(xml, PARSER)
    except UnicodeDecodeError:
        raise Unfit(Reason.INVALID_UTF8) from None
    except etree.XMLSyntaxError as error:
        undeclared = error.code == etree.ErrorTypes.ERR_UNDECLARED_ENTITY
        raise Unfit(Reason.ENTITY_REFUSED if undeclared else Reason.MALFORMED_XML) from None
